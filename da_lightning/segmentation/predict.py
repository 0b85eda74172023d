"""Labelling files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import PositiveInt

from da_lightning.data.images import read_image
from da_lightning.data.inputs import Input, batches, with_shorter_side
from da_lightning.files import write_png
from da_lightning.segmentation.losses import upsampled
from da_lightning.segmentation.module import SegmentationModule
from da_lightning.training.progress import with_progress


@dataclass
class Segment:
    """Writes class ids of each pixel, ``labels/*.png``, and their colours over the image, ``overlays/*.png``.

    Args:
        image_size: Shorter side at which the network sees images; ``None``: as they are.
        batch_size: Images of one size labelled at once.
    """

    image_size: PositiveInt | None = None
    batch_size: PositiveInt = 1

    @torch.inference_mode()
    def __call__(self, module: SegmentationModule, inputs: Sequence[Input], output: Path) -> list[list[str]]:
        """Label ``inputs``, in their own size.

        Returns:
            The path of each label map, relative to ``output``.

        Raises:
            DataError: A file that cannot be read.
        """
        groups = list(batches(inputs, self.batch_size))
        for positions in with_progress(groups, "Labelling", len(groups)):
            images = [read_image(inputs[i].image) for i in positions]
            seen = torch.stack([with_shorter_side(image, self.image_size) for image in images])
            # Once, from the network's stride: to the size that it saw and then to the image's would blur twice.
            logits = upsampled(module.infer(seen.to(module.device) / 255), images[0].shape[-2:], module.align_corners)
            for i, image, label in zip(positions, images, logits.argmax(1).cpu(), strict=True):
                overlay = (image.float() + module.coloured(label)) / 2
                for folder, picture in (("labels", label[None]), ("overlays", overlay)):
                    write_png(picture.to(torch.uint8), output / folder / f"{inputs[i].name}.png")
        return [[f"labels/{item.name}.png"] for item in inputs]
