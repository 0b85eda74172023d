"""``resume=auto``: finding the run that the same command left unfinished."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf


def unfinished_stamp(arguments: Sequence[str], root: Path = Path()) -> str | None:
    """Stamp of the newest run, or sweep, that these command-line arguments began; ``None`` begins a new one.

    A run counts as unfinished while it, or a stage of it, has a checkpoint and it has no ``metrics.json``. A sweep is
    taken up again in any case: its finished jobs are skipped.
    """
    if "resume=auto" not in arguments:
        return None
    given = get_args_parser().parse_known_args(arguments)[0]  # Hydra's own, which knows what belongs to a flag
    words = [word for word in given.overrides if word != "resume=auto"]
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException:  # Hydra will tell
        return None
    # As Hydra records them: without those of its own options.
    wanted = {override.input_line for override in overrides if not override.is_hydra_override()}
    candidates = _sweeps(root) if given.multirun else _runs(root)
    matching = [folder for folder, overrides in candidates if {o for o in overrides if o != "resume=auto"} == wanted]
    return max((folder.name for folder in matching), default=None)


def _runs(root: Path) -> Iterator[tuple[Path, list[str]]]:
    for file in root.glob("outputs/*/*/*/.hydra/overrides.yaml"):
        folder = file.parent.parent
        has_begun = any(any(folder.glob(f"{stage}checkpoints/last.ckpt")) for stage in ("", "*/"))
        if has_begun and not (folder / "metrics.json").is_file():
            yield folder, list(OmegaConf.load(file))


def _sweeps(root: Path) -> Iterator[tuple[Path, list[str]]]:
    for place in ("*", "*/*/*"):  # multirun/<stamp>, and multirun/<method>/<data>/<stamp> of earlier versions
        for file in root.glob(f"multirun/{place}/multirun.yaml"):
            yield file.parent, list(OmegaConf.load(file).hydra.overrides.task)
