"""Mistakes a user can make, each told in one sentence: what was expected, what was found, what to change."""

from da_lightning.names import shown


class UserError(Exception):
    """A mistake in a command, a configuration, a folder or a file; the front door prints it without a traceback.

    What a terminal would obey in a name, as an escape sequence, is made visible.
    """

    def __str__(self) -> str:
        return shown(super().__str__())


class DataError(UserError):
    """A data set, an image or a label map that is not what its layout promises."""


class CheckpointError(UserError):
    """A checkpoint or a weight file that cannot be read or does not fit the network."""


class NotFiniteError(UserError):
    """A loss term or a weight became NaN or infinite; the message names it and the iteration."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: the last checkpoint is from before; lower the learning rate, clip gradients or raise the "
            "precision."
        )
