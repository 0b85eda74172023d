import pytest
import torch
from torch import nn

from da_lightning.reid.networks.light import LightBackbone
from da_lightning.segmentation.networks.light import LightNet
from da_lightning.training.convolutions import StridedPointwise


@pytest.mark.parametrize("channels", [4, 12, 16])
@pytest.mark.parametrize("sides", [(16, 24), (17, 25)])
def test_it_equals_the_plain_convolution_in_either_layout(channels: int, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, plain = StridedPointwise(channels, 8, stride=2), nn.Conv2d(channels, 8, 1, stride=2)
    plain.load_state_dict(ours.state_dict())
    image = torch.randn(2, channels, *sides)
    wanted, pull = plain(image.requires_grad_()), torch.randn(2, 8, *(-(-side // 2) for side in sides))
    gradients = torch.autograd.grad(wanted, [image, plain.weight, plain.bias], pull)
    for layout in (torch.contiguous_format, torch.channels_last):
        ours, given = ours.to(memory_format=layout), image.detach().to(memory_format=layout).requires_grad_()
        found = ours(given)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(torch.autograd.grad(found, [given, ours.weight, ours.bias], pull), gradients)


@pytest.mark.parametrize("network", [LightNet(5, multi_level=True), LightBackbone()])
def test_light_networks_have_no_plain_one(network: nn.Module) -> None:
    strided = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) != m.stride]
    assert strided and all(isinstance(convolution, StridedPointwise) for convolution in strided)
