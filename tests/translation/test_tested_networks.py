"""Teachers of translators: with ``test_with=teacher`` they are what translates, is exported and begun from."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tiny_runs import assert_same, composed, tiny, trainer
from torch import nn
from torch.utils.data import DataLoader

from da_lightning.config.build import build
from da_lightning.training.teacher import Teacher
from da_lightning.translation.weights import load_weights

NETWORKS = {
    "cyclegan": ["generators"],
    "drit": ["content_encoder", "attribute_encoders", "generator"],
    "munit": ["generators"],
    "stargan": ["generator"],
    "unit": ["generators"],
    "unit_classifier": ["generators", "discriminators"],
}
AT_ONCE = {
    "drit": "method.content_iters=0",
    "stargan": "method.critic_steps=1",
    "unit_classifier": "method.source_iters=0",
}
"""What lets all players step in the first iteration."""


@pytest.mark.slow
@pytest.mark.parametrize("tested", ["student", "teacher"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_teacher_translates_and_is_exported(name: str, tested: str, tmp_path: Path) -> None:
    cfg = composed(f"method={name}", *tiny(name), "method.max_iters=1", AT_ONCE.get(name, "method.seed=0"))
    module = build(cfg.method, "method")
    teachers = {n: Teacher(module.get_submodule(n), 0.5, ramp=False, test_with=tested) for n in NETWORKS[name]}
    module.taught, module.teachers = nn.ModuleDict(teachers), lambda: teachers
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    sample = {"image": image, "label": torch.zeros(2, dtype=torch.long)}
    trainer(tmp_path).fit(module, DataLoader([{"source": sample, "target": sample}], batch_size=None))

    plain = deepcopy(module)
    plain.teachers = dict
    for network, teacher in teachers.items():
        student = plain.get_submodule(network)
        pairs = zip(student.parameters(), teacher.parameters(), strict=True)
        assert teacher.updates and any(not torch.equal(one, other) for one, other in pairs)
        if tested == "teacher":
            student.load_state_dict(teacher.network.state_dict())
    further = torch.randn(2, module.style_dim) if module.style_dim else None
    for number, domain in enumerate(("source", "target")):
        one, other = (m.eval().translate(image, domain, further) for m in (module, plain))
        assert torch.equal(one, other)
        if module.style_dim:
            assert torch.equal(module.style_of(image, domain), plain.style_of(image, domain))
        into = torch.tensor([number, number]) if name == "stargan" else further
        options = {} if name == "stargan" else {"to": domain}
        one, other = (m.exportable(**options).network(image / 2 + 0.5, into) for m in (module, plain))
        assert torch.equal(one, other)

    begun = build(cfg.method, "method")
    load_weights(begun, tmp_path / "checkpoints/last.ckpt", dict)
    wanted = plain.state_dict()
    assert_same(dict(begun.state_dict()), {key: wanted[key] for key in begun.state_dict()})
