"""Class maps: a yaml file that names, numbers and colours the classes of somebody's own label files."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from da_lightning.arguments import Colour
from da_lightning.errors import UserError
from da_lightning.names import shown
from da_lightning.yaml_files import YamlError, read_yaml

IGNORE = 255

Id = Annotated[int, Field(ge=0, le=65535)]
Name = Annotated[str, Field(pattern="^[^/]+$", max_length=60)]  # it becomes part of metric and file names


class ClassEntry(BaseModel, extra="forbid"):
    """The ids in the label files that are one class, and its RGB colour in pictures.

    Masks in colours have no ids; ``colors`` are the class's colours there, if they are several or others.
    """

    ids: list[Id] = []
    color: Colour
    colors: list[Colour] = []


class ClassMap(BaseModel, extra="forbid"):
    """Classes in the order of class ids; an id that is neither theirs nor ignored is refused by the data set."""

    classes: dict[Name, ClassEntry] = Field(min_length=1, max_length=254)
    ignore_ids: list[Id] = []
    ignore_colors: list[Colour] = []

    @property
    def colors(self) -> dict[str, list[int]]:
        """RGB by class name."""
        return {name: list(entry.color) for name, entry in self.classes.items()}

    @property
    def ids(self) -> dict[int, int]:
        """Class id, or 255 for ignore, by id in the label files."""
        ignored = dict.fromkeys(self.ignore_ids, IGNORE)
        return ignored | {i: number for number, entry in enumerate(self.classes.values()) for i in entry.ids}

    @property
    def label_colors(self) -> list[list[list[int]]]:
        """RGB values of each class in masks that have colours."""
        return [[list(color) for color in entry.colors or [entry.color]] for entry in self.classes.values()]

    @property
    def count(self) -> int:
        """Number of classes."""
        return len(self.classes)


def read_class_map(path: str) -> ClassMap:
    """Read ``{classes: {road: {ids: [7], color: [128, 64, 128]}, ...}, ignore_ids: [0], ignore_colors: [[0, 0, 0]]}``.

    All but names and colours is optional.

    Names are the words in the file, also ``no``, ``null`` and ``1``; control characters in them are made visible.

    Raises:
        UserError: No such file, no yaml, no class map, or an id that is listed twice.
    """
    try:
        content = ClassMap.model_validate(_with_shown_names(read_yaml(Path(path).expanduser())))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the whole"
        raise UserError(
            f"The class map {path} has a mistake at {place} ({problem['msg']}): give each class ids and a colour, "
            "like road: {ids: [7], color: [128, 64, 128]}, under classes."
        ) from None
    except (YamlError, RuntimeError) as error:  # RuntimeError: a home folder of nobody
        raise UserError(f"The class map {path} cannot be read ({error}): set data.class_map to a yaml file.") from None
    given = [bool(entry.ids) for entry in content.classes.values()]
    if any(given) and not all(given):
        name = list(content.classes)[given.index(False)]
        raise UserError(
            f"The class map {path} has no ids for {name}: give ids to each class, or to none where masks have colours."
        )
    listed = [*content.ignore_ids, *(i for entry in content.classes.values() for i in entry.ids)]
    if twice := [i for i, times in Counter(listed).items() if times > 1]:
        raise UserError(f"The class map {path} lists the ids {twice} more than once: give each id to one class.")
    return content


def _with_shown_names(content: Any) -> Any:
    classes = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(classes, dict):
        return content
    names = {shown(name): entry for name, entry in classes.items()}
    if len(names) < len(classes):
        raise YamlError("two names of classes differ in control characters alone")
    return content | {"classes": names}
