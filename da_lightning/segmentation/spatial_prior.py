"""The spatial prior of CBST-SP (Zou et al., ECCV 2018): where in the picture the source domain shows each class.

It multiplies the probabilities when pseudo labels are made (see `pseudo_labels`) and is never used at test time.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import gaussian_blur, resize

from da_lightning.errors import CheckpointError, DataError, UserError
from da_lightning.files import whole_file
from da_lightning.training.checkpoints import read_checkpoint, write_tensors


def spatial_prior(
    labels: Iterable[Tensor], num_classes: int, size: tuple[int, int], kernel: float = 70 / 1024
) -> Tensor:
    """Smoothed frequency of each class at each pixel, every class scaled to a maximum of 1: float32 [K, H, W] in 0..1.

    Pixels without any valid source label (the bonnet of the car, say) get each class's overall frequency: no evidence,
    no preference. A class that never occurs gets zeros: the network has not learned it either, and elsewhere its noise
    would beat classes that are merely out of place, and be handed a low threshold of its own.

    Args:
        labels: Source label maps, integers [h, w]; ids outside 0..K-1 are ignored. Other sizes are resized to nearest.
        num_classes: K.
        size: H, W of the prior.
        kernel: Side of the Gaussian kernel as a share of H (paper: 70 pixels of 1024); it spans 3 sigma on each side.

    Raises:
        UserError: A kernel outside 0..1.
        DataError: There is no label map, or no valid pixel in any.
    """
    if not 0 <= kernel <= 1:
        raise UserError(f"The prior's kernel is a share of the height in 0..1, got {kernel}: give e.g. 0.068.")
    counts = torch.zeros(num_classes, *size, dtype=torch.int64)
    pixels = torch.arange(size[0] * size[1])
    for label in labels:
        label = resize(label[None], list(size), InterpolationMode.NEAREST_EXACT).flatten().long()
        valid = (label >= 0) & (label < num_classes)
        counts.view(num_classes, -1)[label[valid], pixels[valid]] += 1  # no pair occurs twice in one map
    if not counts.any():
        raise DataError(
            f"The spatial prior needs source label maps with class ids 0 to {num_classes - 1}, found no such pixel: "
            "check the source's label folder and its class list."
        )
    seen = counts.sum(0)
    overall = counts.sum((1, 2)) / seen.sum()
    frequency = torch.where(seen > 0, counts / seen.clamp(min=1), overall[:, None, None])
    span = kernel * size[0]
    odd = 2 * int(span / 2) + 1
    for side in ([1, odd], [odd, 1]):  # separable: two thin blurs instead of one square one
        frequency = gaussian_blur(frequency, side, [max(span / 6, 1e-3)] * 2)
    return frequency / frequency.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def save_prior(prior: Tensor, classes: Sequence[str], path: str | Path) -> None:
    """Write a prior [K, H, W] and the names of its classes, which `load_prior` checks."""
    with whole_file(path) as part:
        write_tensors({"prior": prior, "classes": list(classes)}, part)


def load_prior(path: str | Path, classes: Sequence[str], size: tuple[int, int]) -> Tensor:
    """Read a prior and fit it to the size (H, W) of the probabilities: float32 [K, H, W] in 0..1.

    Raises:
        DataError: The file is missing, is not a prior, or was made for other classes.
    """
    try:
        saved = read_checkpoint(path)
        prior, names = cast(Tensor, saved["prior"]), cast(list[str], saved["classes"])
    except (CheckpointError, KeyError) as error:
        reason = str(error).rstrip(".")
        raise DataError(
            f"Expected a spatial prior in '{path}', found none that can be read ({reason}): "
            "make one from the source labels and give its path."
        ) from error
    if names != list(classes):
        raise DataError(
            f"Expected a spatial prior of the classes {', '.join(classes)}, found one of {', '.join(names)} in "
            f"'{path}': make one from this source's labels."
        )
    return resize(prior, list(size), InterpolationMode.BILINEAR, antialias=True)


def prior_pictures(prior: Tensor, classes: Sequence[str]) -> dict[str, Tensor]:
    """A heat map of each class: name -> uint8 RGB [3, H, W], dark where the prior is 0, bright yellow where it is 1."""
    from matplotlib import colormaps  # only pictures need it

    heat = torch.from_numpy(colormaps["viridis"](prior.numpy(), bytes=True))[..., :3]
    return dict(zip(classes, heat.permute(0, 3, 1, 2), strict=True))
