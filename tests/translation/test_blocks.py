"""Blocks of the translators against their definitions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from da_lightning.errors import UserError
from da_lightning.translation.cyclegan import CycleGAN
from da_lightning.translation.networks.blocks import (
    ConvBlock,
    LayerNorm,
    ReflectConv,
    ResidualBlock,
    UpsampleBlock,
    UpsampleConv,
    add,
    instance_norm,
    layer_norm,
    reflect_conv,
    upsample_conv,
)
from da_lightning.translation.networks.discriminators import MultiScaleDiscriminator
from da_lightning.translation.networks.fast_blocks import SWITCH, faster_on_cpu
from da_lightning.translation.networks.initial_weights import Additive, initialise
from da_lightning.translation.networks.unit import UNITGenerator
from da_lightning.translation.stargan import StarGAN


def gradients(value: Tensor, *inputs: Tensor) -> list[Tensor]:
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(5)).to(value)
    return list(torch.autograd.grad((value * weights).sum(), inputs))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("function", [instance_norm, layer_norm, reflect_conv, upsample_conv, add])
def test_fast_forms_equal_the_plain_ones(function: Callable[..., Tensor], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x, y, weight, affine, gamma, beta = (
        torch.randn(shape, dtype=torch.double, requires_grad=True)
        for shape in ((2, 4, 6, 8), (2, 4, 6, 8), (4, 4, 5, 5), (2, 2, 4), (4,), (4,))
    )
    further = {
        "instance_norm": (affine,),
        "layer_norm": (gamma, beta),
        "reflect_conv": (weight, beta, (1, 1), [2, 2, 2, 2]),
        "upsample_conv": (weight, beta),
        "add": (y,),
    }[function.__name__]
    plain = function.__wrapped__  # type: ignore[attr-defined]
    found, expected = (form(x.to(memory_format=layout), *further) for form in (function, plain))
    torch.testing.assert_close(found, expected)
    inputs = [given for given in (x, *further) if isinstance(given, Tensor)]
    torch.testing.assert_close(gradients(found, *inputs), gradients(expected, *inputs))


def test_fast_forms_are_for_cpu_tensors_and_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    form = faster_on_cpu(lambda x: x.new_empty(1))(lambda x: x.new_empty(2))
    on_cpu, elsewhere = torch.empty(3), torch.empty(3, device="meta")
    assert (len(form(on_cpu)), len(form(elsewhere))) == (1, 2)
    monkeypatch.setenv(SWITCH, "0")
    assert (len(form(on_cpu)), len(form(elsewhere))) == (2, 2)


def test_a_generator_is_the_same_without_fast_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    generator, image = UNITGenerator(width=4, downsamples=2, residuals=1).double(), torch.rand(2, 3, 16, 20).double()
    found = generator.decoder(generator.encoder(image))
    slopes = gradients(found, *generator.parameters())
    monkeypatch.setenv(SWITCH, "0")
    expected = generator.decoder(generator.encoder(image))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(slopes, gradients(expected, *generator.parameters()))


def upsampled_then_convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    high = F.interpolate(x, scale_factor=2, mode="nearest")
    return F.conv2d(F.pad(high, (2, 2, 2, 2), mode="reflect"), weight, bias)


@pytest.mark.parametrize("size", [(2, 2), (2, 5), (3, 2), (8, 7)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_folded_upsampling_equals_the_plain_one(size: tuple[int, int], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = UpsampleConv(3, 4).double().to(memory_format=layout)
    x = torch.randn(2, 3, *size, dtype=torch.double).to(memory_format=layout).requires_grad_()
    inputs = x, conv.weight, conv.bias
    expected = upsampled_then_convolved(*inputs)
    torch.testing.assert_close(conv(x), expected)
    torch.testing.assert_close(gradients(conv(x), *inputs), gradients(expected, *inputs))


@pytest.mark.parametrize("shape", [(4, 2, 1), (5, 1, 2)])  # of stride 1 to few channels, rows of taps are channels
def test_reflected_convolutions_have_the_gradients_of_torchs_own(shape: tuple) -> None:
    torch.manual_seed(0)
    ours = ReflectConv(2, 3, *shape, padding_mode="reflect").double()
    theirs = torch.nn.Conv2d(2, 3, *shape, padding_mode="reflect").double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 2, 6, 8, dtype=torch.double, requires_grad=True)
    found, expected = ours(x), theirs(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, x, *ours.parameters()), gradients(expected, x, *theirs.parameters()))
    assert torch.autograd.gradgradcheck(ours, x)


def test_folded_upsampling_in_single_precision() -> None:
    torch.manual_seed(0)
    conv, x = UpsampleConv(64, 32), torch.randn(1, 64, 16, 16, requires_grad=True)
    inputs = x, conv.weight, conv.bias
    expected = upsampled_then_convolved(*inputs)
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(conv(x), *inputs), gradients(expected, *inputs), rtol=1e-4, atol=1e-4)
    assert conv.state_dict().keys() == {"weight", "bias"}  # as the official files have them
    assert conv.weight.shape == (32, 64, 5, 5)


def test_layer_norm_is_the_official_one() -> None:
    torch.manual_seed(0)
    norm, x = LayerNorm(3).double(), 0.05 * torch.randn(2, 3, 4, 5, dtype=torch.double) + 1
    assert (norm.gamma >= 0).all() and (norm.gamma <= 1).all() and (norm.beta == 0).all()
    norm.beta.data.normal_()
    x.requires_grad_()
    flat = x.flatten(1)
    mean, deviation = flat.mean(1), flat.var(1, unbiased=True).sqrt() + 1e-5
    normed = (x - mean[:, None, None, None]) / deviation[:, None, None, None]
    expected = normed * norm.gamma[:, None, None] + norm.beta[:, None, None]
    inputs = x, norm.gamma, norm.beta
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(gradients(norm(x), *inputs), gradients(expected, *inputs))


def test_gradient_of_a_bfloat16_layer_norm_is_computed_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    norm, x = LayerNorm(4), torch.randn(2, 4, 32, 32, generator=generator).bfloat16().requires_grad_()
    wide = x.detach().float().requires_grad_()
    found, expected = gradients(norm(x), x, *norm.parameters()), gradients(norm(wide), wide, *norm.parameters())
    assert [g.dtype for g in found] == [torch.bfloat16, torch.float32, torch.float32]
    assert all(
        ((one - other).abs().max() / other.abs().max()) < 0.005 for one, other in zip(found, expected, strict=True)
    )


def test_layer_norm_of_a_constant_has_a_finite_gradient() -> None:
    x = torch.ones(1, 2, 4, 4, requires_grad=True)
    (gradient,) = gradients(LayerNorm(2)(x), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 16, 64, 64)])  # either side of where the kernel changes
def test_adaptive_instance_norm_takes_the_shift_first(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.double).to(memory_format=layout).requires_grad_()
    affine = torch.randn(2, 2, shape[1], dtype=torch.double, requires_grad=True)
    shift, scale = affine[:, 0, :, None, None], affine[:, 1, :, None, None]
    for given, expected in ((None, F.instance_norm(x)), (affine, F.instance_norm(x) * scale + shift)):
        found, inputs = instance_norm(x, given), (x,) if given is None else (x, affine)
        assert found.is_contiguous(memory_format=layout)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(found, *inputs), gradients(expected, *inputs))


def test_a_step_in_bfloat16_keeps_its_layout_and_pads_no_copy_in_float32() -> None:
    """Sums and norms of two layouts take several times as long as of one, and autocast would pad in float32."""
    generator = UNITGenerator(width=16, downsamples=2, residuals=2).to(memory_format=torch.channels_last)
    strayed, hooks = [], 0

    def watch(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        def check(x: Tensor) -> None:
            if not x.is_contiguous(memory_format=torch.channels_last):
                strayed.append(module)

        check(output)
        output.register_hook(check)

    for module in generator.modules():
        if isinstance(module, ConvBlock | ResidualBlock | UpsampleBlock) and module is not generator.decoder.output:
            module.register_forward_hook(watch)
            hooks += 1
    with torch.autocast("cpu", torch.bfloat16), profile(activities=[ProfilerActivity.CPU]) as record:
        code = generator.encoder(torch.rand(2, 3, 64, 64))
        (generator.decoder(code).abs().mean() + code.float().square().mean()).backward()
    assert hooks == 17 and not strayed
    assert not [e for e in record.events() if e.name == "aten::to" and e.cpu_parent and "pad" in e.cpu_parent.name]


def test_statistics_are_float32_whatever_the_input_is() -> None:
    """Of values whose sum bfloat16 cannot hold."""
    x = (torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0)) + 4).bfloat16()
    norm = LayerNorm(2)
    norm.gamma.data.fill_(1)
    for normed in (instance_norm(x), norm(x)):
        assert abs(normed.float().mean()) < 0.01
        assert normed.float().std().item() == pytest.approx(1, abs=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert instance_norm(x).dtype == torch.bfloat16


def test_discriminator_scales_see_halved_images() -> None:
    torch.manual_seed(0)
    judge, image = MultiScaleDiscriminator(width=4, scales=3, layers=2), torch.randn(1, 3, 32, 48)
    scores = judge(image)
    assert [tuple(score.shape) for score in scores] == [(1, 1, 8, 12), (1, 1, 4, 6), (1, 1, 2, 3)]
    for scale, score in zip(judge.scales, scores, strict=True):
        torch.testing.assert_close(scale(image), score)
        ones = F.avg_pool2d(torch.ones_like(image), 3, 2, 1)  # zero padding is not counted
        image = F.avg_pool2d(image, 3, 2, 1) / ones


@pytest.mark.parametrize(("scales", "layers", "smallest"), [(3, 4, 61), (2, 3, 15), (1, 1, 2)])
def test_discriminator_names_the_smallest_image(scales: int, layers: int, smallest: int) -> None:
    judge = MultiScaleDiscriminator(width=2, scales=scales, layers=layers)
    assert len(judge(torch.zeros(1, 3, smallest, smallest))) == scales
    with pytest.raises(UserError, match=f"at least {smallest}x{smallest} pixels"):
        judge(torch.zeros(1, 3, smallest - 1, 99))


def test_initialisation() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(8, 64, 3), torch.nn.Linear(100, 50))
    for init, deviations in (("normal", (0.02, 0.02)), ("kaiming", ((2 / 72) ** 0.5, (2 / 100) ** 0.5))):
        initialise(network, init)  # type: ignore[arg-type]
        for layer, deviation in zip(network, deviations, strict=True):
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
            assert (layer.bias == 0).all()


@pytest.mark.parametrize("kind", ["resnet", "unet", "star"])
def test_additive_translation_begins_as_the_identity_and_learns_all_layers(kind: str) -> None:
    torch.manual_seed(0)
    options = {"width": 4, "residuals": 1, "additive": True, "optimizer": {"name": "Adam", "lr": 0.01}, "max_iters": 2}
    if kind == "star":
        method = StarGAN(discriminator_width=4, discriminator_layers=2, **options)
        generator = method.generator
    else:
        method = CycleGAN(generator=kind, halvings=3, discriminator_width=4, **options)
        generator = method.generators["target"]
    assert isinstance(generator, Additive)
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(method.translate(image, "target"), image)
    optimizer = torch.optim.Adam(generator.parameters(), 0.01)
    before = {name: p.detach().clone() for name, p in generator.named_parameters()}
    for _ in range(2):  # in the first step a last layer of zeros lets no gradient through
        optimizer.zero_grad()
        (method.generate(image, "target") - image.flip(1)).square().mean().backward()
        optimizer.step()
    weights = {name: p for name, p in generator.named_parameters() if p.dim() > 1}
    assert all(not torch.equal(p, before[name]) for name, p in weights.items())
    assert not torch.equal(method.translate(image, "target"), image)
