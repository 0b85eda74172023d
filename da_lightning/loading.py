"""Files that are loaded hold tensors and plain values, never code."""

import os


def load_tensors_alone() -> None:
    """Have all loads by torch in this process, and in those that it starts, refuse files that could run code.

    Our own ask for that each time (:func:`~da_lightning.training.checkpoints.read_checkpoint`). Those of other packages
    do not, and ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` in the environment would open them to any file.
    """
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
