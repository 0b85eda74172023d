"""Scores of translations: how far from a domain's real images (FID, KID), how far from each other (LPIPS diversity)."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.functional.image.lpips import _NoTrainLpips
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchmetrics.utilities import dim_zero_cat
from torchvision.models import AlexNet_Weights, get_model
from torchvision.transforms.v2.functional import normalize

from da_lightning.errors import CheckpointError, UserError
from da_lightning.training.checkpoints import read_checkpoint

Metric = Literal["fid", "kid", "lpips"]

INPUTS, PAIRS = 100, 19
"""Of LPIPS diversity, as MUNIT defines it: inputs, and pairs of translations of each."""

_LPIPS_NETWORKS: dict[str | None, Literal["alex", "vgg", "squeeze"]] = {
    "alexnet": "alex",
    "vgg16": "vgg",
    "squeezenet1_1": "squeeze",
}
_SIDE = 224  # torchvision's networks were trained at


class DomainScores:
    """Scores of the translations into one domain, and of the round trips that begin there; the same on all ranks.

    Args:
        networks: By metric, see :func:`metric_networks`.
        device: Of the images.
        inputs: How many inputs' translations this rank gives to :meth:`add_pairs`.
    """

    def __init__(self, networks: Mapping[Metric, nn.Module], device: torch.device, inputs: int = INPUTS) -> None:
        self.networks, self.inputs = networks, inputs if "lpips" in networks else 0
        self.cycle = _mean(device)
        self.distances = {
            metric: kind(_Features(networks[metric])).to(device)
            for metric, kind in _DISTANCES.items()
            if metric in networks
        }
        self.diversity = _mean(device)

    def add(self, images: Tensor, real: bool) -> None:
        """Take in images of the domain, or translations into it; uint8 RGB [B, 3, H, W]."""
        if self.distances:
            with torch.autocast(images.device.type, enabled=False):
                features = self.networks[next(iter(self.distances))](images)
            for distance in self.distances.values():
                distance.update(features, real=real)

    def add_pairs(self, one: Tensor, another: Tensor) -> None:
        """Take in translations of one input under as many pairs of styles; float32 RGB [B, 3, H, W] in [-1, 1]."""
        with torch.autocast(one.device.type, enabled=False):
            self.diversity.update(self.networks["lpips"](one.float().clamp(-1, 1), another.float().clamp(-1, 1)))
        self.inputs -= 1

    def compute(self) -> dict[str, Tensor]:
        """``cycle_l1`` and each metric by name; KID draws subsets from torch's global generator."""
        parts: dict[Any, Any] = {"cycle_l1": self.cycle, **self.distances}
        if "lpips" in self.networks:
            parts["lpips"] = self.diversity
        return {name: part.compute() for name, part in parts.items()}


def score_name(metric: str, network: str | None = None, weights: str | None = None) -> str:
    """``fid``, ``kid``, ``lpips_diversity``, or ``fid_resnet18_mine`` by other than the standard networks."""
    name = "lpips_diversity" if metric == "lpips" else metric
    is_standard = metric == "lpips" and network not in _LPIPS_NETWORKS
    return name if weights is None or is_standard else f"{name}_{network}_{Path(weights).stem}"


def metric_networks(
    metrics: Collection[Metric], network: str | None = None, weights: str | None = None
) -> dict[Metric, nn.Module]:
    """What each metric compares images by.

    Args:
        metrics: Those wanted.
        network: torchvision's name of a network that ends in a linear layer; FID and KID compare what goes into that.
            With ``alexnet``, ``vgg16`` and ``squeezenet1_1`` also LPIPS. ``None``: the standard networks.
        weights: A file with its state dict.

    Returns:
        By metric: uint8 RGB [B, 3, H, W] to features [B, D]; for LPIPS two batches in [-1, 1] to their distances.

    Raises:
        UserError: A standard network that cannot be had.
        CheckpointError: A file that does not fit the network.
    """
    if (network is None) != (weights is None):
        raise UserError("method.features and method.features_from belong together: give both, or leave out both.")
    networks: dict[Metric, nn.Module] = {}
    if "lpips" in metrics:
        is_local = network in _LPIPS_NETWORKS
        networks["lpips"] = _local_lpips(str(network), str(weights)) if is_local else _standard_lpips()
    if distances := set(metrics) - {"lpips"}:
        features = _Penultimate(network, weights) if network and weights else _inception()
        networks |= dict.fromkeys(distances, features)
    return networks


class _Penultimate(nn.Module):
    """What goes into the last linear layer of a torchvision network, for images stretched to its size as FID does."""

    def __init__(self, name: str, weights: str) -> None:
        super().__init__()
        self.network = _torchvision_network(name, weights)
        linear = [(place, layer) for place, layer in self.network.named_modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise UserError(f"method.features={name} has no linear layer to take features from: take another network.")
        place, head = linear[-1]
        self.network.set_submodule(place, nn.Identity())
        self.num_features = head.in_features

    def forward(self, image: Tensor) -> Tensor:
        image = F.interpolate(image.float() / 255, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        return self.network(normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


class _Features(nn.Identity):
    """Stands for the network in a torchmetrics metric: FID and KID share the features, which are computed once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.num_features = network.num_features


class _KernelDistance(KernelInceptionDistance):
    """KID in subsets of 1000 images, or of all where there are fewer; ranks may have unequal numbers of them."""

    def __init__(self, feature: nn.Module) -> None:
        super().__init__(feature)
        for state in ("real_features", "fake_features"):
            self.add_state(state, [], dist_reduce_fx="cat")  # without, ranks wait for each other's missing batches

    def compute(self) -> Tensor:  # type: ignore[override]  # without its deviation
        self.subset_size = min(1000, *(len(dim_zero_cat(state)) for state in (self.real_features, self.fake_features)))
        return super().compute()[0]


_DISTANCES: dict[Metric, type[Any]] = {"fid": FrechetInceptionDistance, "kid": _KernelDistance}


def _mean(device: torch.device) -> MeanMetric:
    return MeanMetric(nan_strategy="disable").to(device)


def _torchvision_network(name: str, weights: str) -> nn.Module:
    try:
        network = get_model(name, weights=None)
    except ValueError:
        raise UserError(f"method.features={name} is none of torchvision's networks: take resnet18, for one.") from None
    content = read_checkpoint(weights)
    state, own = content.get("state_dict", content), network.state_dict()
    if differing := [key for key in own | state if _shape(state.get(key)) != _shape(own.get(key))]:
        raise CheckpointError(
            f"Expected a state dict of torchvision's {name} in {weights}, but {len(differing)} entries are missing, "
            f"surplus or of another shape ({differing[0]} for one): set method.features to the network it is of."
        )
    network.load_state_dict(state)
    return network.requires_grad_(False).eval()


def _shape(entry: Tensor | None) -> torch.Size | None:
    return getattr(entry, "shape", None)


def _local_lpips(name: str, weights: str) -> nn.Module:
    """LPIPS' own linear layers come with torchmetrics; they weigh the features of a network from a file."""
    lpips = _NoTrainLpips(net=_LPIPS_NETWORKS[name], pnet_rand=True)
    state = _torchvision_network(name, weights).state_dict()
    names = {key: re.sub(r"^slice(s\.)?\d+", "features", key) for key in lpips.net.state_dict()}
    lpips.net.load_state_dict({key: state[official] for key, official in names.items()})
    return lpips


def _standard_lpips() -> nn.Module:
    try:
        return LearnedPerceptualImagePatchSimilarity("alex").net
    except (OSError, RuntimeError) as error:
        url = AlexNet_Weights.IMAGENET1K_V1.url
        raise UserError(
            f"The AlexNet of LPIPS cannot be downloaded ({error}): put {url} into {torch.hub.get_dir()}/checkpoints, "
            "or give such a file by method.features=alexnet and method.features_from, or leave out lpips."
        ) from None


def _inception() -> nn.Module:
    instead = "give torchvision's resnet18, or another, by method.features and its file by method.features_from"
    try:
        network = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"])
    except ModuleNotFoundError:
        raise UserError(
            "The Inception network of FID and KID needs the package torch-fidelity: install da-lightning[metrics], or "
            f"{instead}."
        ) from None
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"The Inception network of FID and KID cannot be downloaded ({error}): put "
            f"weights-inception-2015-12-05-6726825d.pth into {torch.hub.get_dir()}/checkpoints, or {instead}."
        ) from None
    network.num_features = 2048
    return network
