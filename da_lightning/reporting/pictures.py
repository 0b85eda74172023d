"""Pictures of runs inside the page: by kind, and within a number of bytes."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from da_lightning.reporting.runs import Run, natural

BUDGET = 9_000_000
"""Bytes of all pictures of a page, before they grow by a third as base64."""

_LARGEST = 150_000
_WIDEST = 1600
_FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}

_TESTS, _LABELS, _TRAINING = "Test images", "Pseudo labels, round by round", "Training samples"
# Kind and which files are of it (under pictures/, without suffix), in the order of the page.
_KINDS = {
    _TESTS: r"(?P<before>source_only)_(?P<name>.+)|test_(?P<own>.+)",
    "Rankings": r"ranking(_(?P<name>.+))?",
    _LABELS: r"pseudo_labels_(?P<name>round_\d+)",
    "Styles": r"(styles?|camera_styles?|identit(y|ies)|translat[a-z]*)([_/](?P<name>.+))?",
    _TRAINING: r"train_(?P<name>.+)",
    "Spatial prior": r"spatial_prior/(?P<name>.+)",
    "More pictures": r"(?P<name>.+)",
}
_NOTES = {
    "Rankings": "A query a row, then its best matches: framed green if right, red if wrong.",
    _LABELS: "Target images, and below each the pixels that were given a label; what has none stays dark.",
    "Spatial prior": "Where the source shows each class: never is dark, most often is bright yellow.",
}
_COLUMNS = {
    "segmentation": "image, prediction and, where there is one, the label or pseudo label",
    "translation": "image, its translations, and the way back",
}


class Embedded(NamedTuple):
    """A picture as it stands in the page."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Figure:
    """A picture with its words; ``picture`` is ``None`` where the file cannot be read."""

    title: str
    alt: str
    file: str
    picture: Embedded | None


def by_kind(run: Run, embedded: Mapping[Path, Embedded]) -> list[dict[str, Any]]:
    """The run's pictures in the order in which one wants to see them.

    Args:
        run: The run.
        embedded: What :func:`embed` made of the files.
    """
    found: dict[str, list[tuple[list, Figure]]] = {kind: [] for kind in _KINDS}
    for file in drawn_pictures(run):
        path = file.relative_to(run.folder / "pictures").with_suffix("").as_posix()
        kind, match = next((kind, m) for kind, pattern in _KINDS.items() if (m := re.fullmatch(pattern, path)))
        parts = match.groupdict()
        name = (parts.get("own") or parts["name"] or "").replace("_", " ").replace("/", ", ")
        weights = "source only" if parts.get("before") else run.method
        title = f"{name}: {weights}" if kind == _TESTS else name or kind
        alt = " ".join([f"{kind}, {title}.", _note(run, kind)]).strip()
        # The target first, and what adaptation began from beside what came of it.
        place = [name != "target", natural(name), not parts.get("before")]
        found[kind].append((place, Figure(title, alt, file.name, embedded.get(file))))
    return [
        {
            "title": kind,
            "note": _note(run, kind),
            "figures": [figure for _, figure in sorted(figures, key=lambda item: item[0])],
        }
        for kind, figures in found.items()
        if figures
    ]


def _note(run: Run, kind: str) -> str:
    if kind in (_TESTS, _TRAINING) and run.family in _COLUMNS:
        return f"Left to right: {_COLUMNS[run.family]}. A sample a row."
    return _NOTES.get(kind, "")


def drawn_pictures(run: Run) -> list[Path]:
    """All but the bars, which the page draws itself."""
    return [file for file in run.pictures if file.name != "per_class.png"]


def embed(files: Sequence[Path], budget: int = BUDGET) -> dict[Path, Embedded]:
    """Pictures as data URIs of at most ``budget`` bytes together; those that cannot be read are left out."""
    embedded: dict[Path, Embedded] = {}
    left = budget
    # The smallest first: what they leave of their share goes to the large ones.
    for number, file in enumerate(sorted(files, key=lambda file: (file.stat().st_size, str(file)))):
        share = left // (len(files) - number)
        try:
            kind, content, size = _encoded(file, min(share, _LARGEST))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue
        left -= len(content)
        uri = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        embedded[file] = Embedded(uri, *size)
    return embedded


def _encoded(file: Path, limit: int) -> tuple[str, bytes, tuple[int, int]]:
    """Media type, content and size: the file itself if it is small enough, or else a smaller one."""
    with Image.open(file) as image:
        image.load()
        if file.stat().st_size <= limit and image.width <= _WIDEST and image.format in _FORMATS:
            return _FORMATS[image.format], file.read_bytes(), image.size
        pixels = image.convert("RGB")
    # Two bits a pixel is what pictures of this kind take; noise takes more and a second trial.
    scale = min(1.0, _WIDEST / pixels.width, math.sqrt(4 * limit / (pixels.width * pixels.height)))
    while True:
        size = (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale)))
        content = io.BytesIO()
        pixels.resize(size, Image.Resampling.LANCZOS).save(content, "WEBP", quality=85, method=2)
        if content.tell() <= limit or max(size) <= 16:
            return "image/webp", content.getvalue(), size
        scale *= min(0.9, 0.95 * math.sqrt(limit / content.tell()))
