"""Use a trained method on files.

    python -m da_lightning.predict checkpoint=.../last.ckpt input=photos output=translated styles=4

checkpoint=     one of ours, like a run's checkpoints/last.ckpt
input=          an image, or a folder of images at any depth
output=         a folder that is new or empty; names are those of the input
overwrite=true  write into a folder that has something in it
image_size=     shorter side to resize images to; left out, they stay as they are (re-identification: as in training)
batch_size=     images of one size that go through the network together (8; segmentation: 1; re-identification: 32)

An input that has labels becomes a labelled set of the same layout. It has them
  - as a folder with images/ and labels/ in it,
  - by labels=, a folder of label files with the images' names, or
  - by list_file=, a text file of `image label` lines; it and they are relative to input, and the output has its list.

Translation
to=target             or source; a number, from 0, for a method of more than two domains
styles=               random styles for each image; names then end in _style1, _style2...
same_styles=true      the same ones for all images
style_image=          the style of an image instead; or of those in a folder, or of several parted by commas
interpolate=          steps between two styles, random or of two style_images, side by side in one picture
gif=true              the steps as an animation instead
seed=0                of random styles

Segmentation writes labels/ (class ids) and overlays/ (their colours over the image).

Re-identification ranks a gallery for each image: rankings.csv, and rankings.html, a page with thumbnails
gallery=              an image, or a folder of images at any depth; all are ranked, whatever their names
best=10               gallery images for each query
rerank=true           order by k-reciprocal re-ranked distances
shown=100             queries on the page

Labelled day in the style of dusk, and a segmentation trained on it:

    python -m da_lightning.predict checkpoint=... input=camvid list_file=lists/day_train.txt output=dusky
    python -m da_lightning.run method=segmentation_source_only data=camvid_day2dusk data.root=camvid \\
        data.source.root=dusky
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from da_lightning.errors import CheckpointError, UserError
from da_lightning.files import check_writable
from da_lightning.names import shown
from da_lightning.screen import run_command

if TYPE_CHECKING:
    from da_lightning.training.module import AdaptationModule

# Heavy imports (torch, lightning) wait until there is something to do: --help must answer at once.


def main() -> None:
    """Entry point of ``python -m da_lightning.predict`` and of ``da-lightning predict``."""
    run_command(__doc__, predict)


def predict(
    checkpoint: str,
    input: str,
    output: str,
    list_file: str | None = None,
    labels: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Predict on files; the options are those of the command line, see ``--help``.

    Raises:
        UserError: Options, files or a checkpoint that do not fit.
    """
    import torch

    from da_lightning.arguments import checked_arguments
    from da_lightning.data.inputs import find_inputs, write_list

    source, folder = Path(input).expanduser(), Path(output).expanduser()
    given_labels = Path(labels).expanduser() if labels else None
    others = [Path(path).expanduser() for path in (labels, options.get("gallery")) if path]
    module = load_method(checkpoint)
    kind = _predictor(module)
    predictor = kind(**checked_arguments(kind, options, "predict"))
    inputs = find_inputs(source, list_file, given_labels)
    _check_output(folder, overwrite, [source, *others])
    module = module.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    rows = predictor(module, inputs, folder)
    if list_file is not None:
        path = Path(list_file)
        write_list(folder / (path.name if path.is_absolute() or path.parts[0] in ("..", "~") else path), rows)
    print(f"{shown(folder)}: {len(rows)} from {len(inputs)} images.")


def load_method(checkpoint: str | Path) -> "AdaptationModule":
    """Rebuild the method in a checkpoint of ours, on the CPU, without its training.

    Raises:
        CheckpointError: No checkpoint of ours, or one that does not fit its class any more.
        UserError: No method of a trusted package.
    """
    from da_lightning.arguments import checked_arguments
    from da_lightning.config.roles import class_of_role
    from da_lightning.training.checkpoints import check_current, read_checkpoint, without_origins
    from da_lightning.training.module import AdaptationModule

    content = read_checkpoint(checkpoint)
    name, options = content.get("method"), content.get("hyper_parameters")
    if not (isinstance(name, str) and isinstance(options, dict) and "state_dict" in content):
        raise CheckpointError(
            f"{checkpoint} does not say which method it is of (it holds {', '.join(map(str, list(content)[:5]))}): "
            "give a checkpoint of a run, like last.ckpt."
        )
    check_current(checkpoint, content)
    kind = class_of_role(name, (AdaptationModule,), f"The method of {checkpoint}, {name},")
    try:
        arguments = checked_arguments(kind, without_origins(options), "method")
    except UserError as error:
        raise CheckpointError(
            f"{checkpoint} has other options than {kind.__name__} takes ({str(error).rstrip('.')}): use the version of "
            "da_lightning that wrote it."
        ) from None
    module = kind(**arguments)
    module.on_load_checkpoint(content)
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint} does not fit {name} any more ({str(error).splitlines()[-1].strip()}): use the version of "
            "da_lightning that wrote it."
        ) from None
    return module


def _predictor(module: "AdaptationModule") -> type:
    from da_lightning.reid.module import ReidModule
    from da_lightning.reid.predict import Rank
    from da_lightning.segmentation.module import SegmentationModule
    from da_lightning.segmentation.predict import Segment
    from da_lightning.translation.module import TranslationModule
    from da_lightning.translation.predict import Translate

    kinds = ((TranslationModule, Translate), (SegmentationModule, Segment), (ReidModule, Rank))
    for family, kind in kinds:
        if isinstance(module, family):
            return kind
    raise UserError(f"{type(module).__name__} is of a family that cannot predict on files yet.")


def _check_output(folder: Path, overwrite: bool, sources: Sequence[Path]) -> None:
    for source in sources:
        own, wanted = (source if source.is_dir() else source.parent).resolve(), folder.resolve()
        if wanted == own or wanted in own.parents or (source.is_dir() and own in wanted.parents):
            raise UserError(f"output={folder} and {source} lie one in the other: choose a folder elsewhere.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder} is a file: choose a folder.")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"output={folder} is not empty: choose another folder, or set overwrite=true.")
    check_writable(folder)


if __name__ == "__main__":
    main()
