"""What a method may need to know of its data before it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from da_lightning.arguments import option_hints


@dataclass(frozen=True)
class DataFacts:
    """Options of methods that follow from the data; ``None`` where a data module does not say.

    Args:
        classes: Names and colours, in the order of the class ids.
        num_persons: Persons of the source.
        num_domains: Domains that images of one set are from: cameras.
        image_size: (H, W) of training images. In re-identification test images have the same size.
        interpolation: How images are resized to it.
        target_size: Images of the target.
        target_list: Fingerprint of their names, in their order.
    """

    classes: Mapping[str, Sequence[int]] | None = None
    num_persons: int | None = None
    num_domains: int | None = None
    image_size: tuple[int, int] | None = None
    interpolation: str | None = None
    target_size: int | None = None
    target_list: str | None = None

    def options(self, method: type, given: Mapping[str, Any]) -> dict[str, Any]:
        """Facts that ``method`` has an option for and that ``given`` does not set."""
        open_ = {name for name in option_hints(method) if given.get(name) is None}
        return {name: value for name, value in vars(self).items() if name in open_ and value is not None}
