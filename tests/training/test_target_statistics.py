"""AdaBN of both families: what is tested, selected and saved has the target's batch-norm statistics."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tiny_runs import assert_same, built, composed, trainer
from torch import nn
from torch.optim.swa_utils import update_bn

from da_lightning.config.build import build
from da_lightning.errors import UserError
from da_lightning.predict import load_method
from da_lightning.training.ema import AveragedWeights
from da_lightning.training.target_statistics import check_norms, target_statistics, under_target_statistics

pytestmark = pytest.mark.slow

ON = "method.target_statistics=true"


@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("method", ["segmentation_source_only", "adaptsegnet", "reid_source_only", "ecn"])
def test_they_are_those_of_the_last_weights(method: str, averages: bool, tmp_path: Path) -> None:
    off, data = built(method)
    trainer(tmp_path / "off", *([AveragedWeights(0.5)] if averages else [])).fit(off, data)
    module, data = built(method, ON)
    trainer(tmp_path / "on", *([AveragedWeights(0.5)] if averages else [])).fit(module, data)

    expected, batches = deepcopy(off), data.ordered_loader(data.unlabelled_target())
    network = getattr(expected.train(), expected.tested_network)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    update_bn((batch["image"] for batch in batches), network)
    assert_same(dict(module.named_parameters()), dict(expected.named_parameters()))  # training is not touched
    assert_same(dict(getattr(module, module.tested_network).state_dict()), dict(network.state_dict()))
    assert any(not torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    last = load_method(tmp_path / "on" / "checkpoints" / "last.ckpt")
    assert_same(dict(getattr(last, last.tested_network).state_dict()), dict(network.state_dict()))


def test_a_score_is_taken_under_them_and_training_goes_on_under_its_own(tmp_path: Path) -> None:
    module, data = built("segmentation_source_only", ON)
    fit = trainer(tmp_path)
    fit.fit(module, data)
    norm = next(part for part in module.network.modules() if isinstance(part, nn.BatchNorm2d))
    own = norm.running_mean.fill_(7).clone()
    with under_target_statistics(fit, module):
        assert not torch.equal(norm.running_mean, own)
    assert torch.equal(norm.running_mean, own)


def test_frozen_norms_keep_theirs_and_modes_stay(tmp_path: Path) -> None:
    module, data = built("segmentation_source_only", ON)
    fit = trainer(tmp_path)
    fit.fit(module, data)
    frozen, *others = [part for part in module.network.modules() if isinstance(part, nn.BatchNorm2d)]
    module.eval()
    others[0].train()
    modes = [part.training for part in module.modules()]
    frozen.train = lambda mode=True: frozen  # as networks that freeze some do
    means = [norm.running_mean.fill_(7).clone() for norm in (frozen, *others)]
    target_statistics(fit).estimate(fit, module)
    assert torch.equal(frozen.running_mean, means[0]) and frozen.momentum == others[0].momentum == 0.1
    assert not any(torch.equal(norm.running_mean, mean) for norm, mean in zip(others, means[1:], strict=True))
    assert [part.training for part in module.modules()] == modes


def test_networks_without_norms_or_with_frozen_ones_are_told(caplog: pytest.LogCaptureFixture) -> None:
    frozen = ["network@method.network=deeplab_resnet18", "method.network.bn_stats=frozen"]
    cfg = composed("method=adaptsegnet", *frozen, "method.network.pretrained=null", ON)
    with pytest.raises(UserError, match=r"batch norm is frozen: set it to false, or method\.network\.bn_stats=batch"):
        build(cfg.method, "method")
    cfg = composed("method=reid_source_only", "backbone@method.backbone=resnet18", ON)
    cfg.method.backbone.update(pretrained=None, frozen_norms="statistics")
    with pytest.raises(UserError, match=r"batch norm is frozen: .* or method\.backbone\.frozen_norms=null"):
        build(cfg.method, "method")
    check_norms(nn.Sequential(nn.Conv2d(3, 3, 1)), "")
    assert "changes nothing: Sequential has no batch norm. Set it to false." in caplog.text


def test_domains_are_forwarded_apart_by_an_option_of_its_own() -> None:
    for statistics in (True, False):
        for separate, expected in (("null", statistics), ("true", True), ("false", False)):
            options = (f"method.target_statistics={statistics}", f"method.separate_domains={separate}")
            assert built("cbst", *options)[0].separate_domains == expected
