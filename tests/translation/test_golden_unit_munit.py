"""UNIT and MUNIT against recorded numbers of the official code: networks, and whole iterations of training."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from golden_files import filled_state, golden_files, read_golden
from tiny_runs import trainer
from torch.utils.data import DataLoader

from da_lightning.training.players import Backward, Batch, Term, Updates
from da_lightning.translation.latent import LatentTranslation
from da_lightning.translation.munit import MUNIT
from da_lightning.translation.unit import UNIT
from da_lightning.translation.weights import nvlabs_state

FILES = golden_files("munit*.npz") + golden_files("unit*.npz")

DOMAINS = {"source": "a", "target": "b"}
TERMS = {
    "adversarial": "adv_{}",
    "reconstruction": "recon_x_{}",
    "style": "recon_s_{}",
    "content": "recon_c_{}",
    "kl": "recon_kl_{}",
}
MUNIT_TERMS = {**TERMS, "cycle": "cycrecon_x_{}"}
UNIT_TERMS = {**TERMS, "cycle": "cyc_x_{}", "cycle_kl": "recon_kl_cyc_{}"}


def built(meta: dict[str, Any], folder: Path) -> LatentTranslation:
    """The method with the recording's widths, weights and parameters, read as an official file is."""
    file = folder / "official.pt"
    torch.save(filled_state(meta["keys"]), file)
    given = meta["hyperparameters"]
    network, judge = given["gen"], given["dis"]
    options: dict[str, Any] = {
        "optimizer": {
            "name": "Adam",
            "lr": given["lr"],
            "betas": [given["beta1"], given["beta2"]],
            "weight_decay": given["weight_decay"],
        },
        "max_iters": 3,
        "adversarial_weight": given["gan_w"],
        "reconstruction_weight": given["recon_x_w"],
        "cycle_weight": given["recon_x_cyc_w"],
        "gan": {"lsgan": "least_squares", "nsgan": "vanilla"}[judge["gan_type"]],
        "discriminator_width": judge["dim"],
        "discriminator_scales": judge["num_scales"],
        "discriminator_layers": judge["n_layer"],
        "lr_step": given["step_size"],
        "lr_gamma": given["gamma"],
        "width": network["dim"],
        "residuals": network["n_res"],
        "downsamples": network["n_downsample"],
        "share_fakes": False,
        "init_from": str(file),
    }
    assert given["vgg_w"] == 0, "the recordings come without VGG weights"
    if any("enc_style" in name for name in meta["keys"]):
        return MUNIT(
            style_weight=given["recon_s_w"],
            content_weight=given["recon_c_w"],
            style_dim=network["style_dim"],
            mlp_width=network["mlp_dim"],
            **options,
        )
    return UNIT(kl_weight=given["recon_kl_w"], cycle_kl_weight=given["recon_kl_cyc_w"], **options)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_networks(file: Path, tmp_path: Path) -> None:
    arrays, meta = read_golden(file)
    module = built(meta, tmp_path)
    source, target = arrays["x_a"][0], arrays["x_b"][0]
    own, across = module.generators["source"], module.generators["target"]
    with torch.no_grad():
        if isinstance(module, MUNIT):
            content, style = own.content_encoder(source), own.style_encoder(source)
            found = {
                "content_a": content,
                "style_a": style[..., None, None],
                "recon_a": own.decode(content, style),
                "style_swap_ab": module.generate(source, "target", module.encode_style(target, "target")),
            }
        else:
            code = own.encoder(source)
            found = {"latent_a": code, "recon_a": own.decoder(code), "trans_ab": across.decoder(code)}
            torch.testing.assert_close(module.generate(source, "target", None), found["trans_ab"])
        scores = module.discriminators["source"](source)
    found |= {f"dis_a_scale{k}": score for k, score in enumerate(scores)}
    assert {f"fwd/{name}" for name in found} == {name for name in arrays if name.startswith("fwd/")}
    for name, value in found.items():
        torch.testing.assert_close(value, arrays[f"fwd/{name}"], rtol=1e-4, atol=1e-5, msg=name)


class Norms(L.Callback):
    """Norms of all parameters after each iteration."""

    def __init__(self) -> None:
        self.norms: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.norms.append({name: p.detach().double().norm().item() for name, p in pl_module.named_parameters()})


# Where a gradient is below its rounding error (one element in 50,000, here), Adam's first step goes either way, and
# float32 cannot tell which way the recording's went; float64 does not add errors of its own.
@pytest.mark.parametrize(("precision", "atol"), [("32-true", 2e-6), ("64-true", 0)])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_training(file: Path, precision: Any, atol: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, meta = read_golden(file)
    module, iterations = built(meta, tmp_path), len(arrays["x_a"])
    noises = iter(
        arrays[f"step{step}/{phase}/noise{number}"]
        for step in range(iterations)
        for phase in ("dis", "gen")
        for number in range(sum(name.startswith(f"step{step}/{phase}/noise") for name in arrays))
    )
    monkeypatch.setattr(module, "noise", lambda size: next(noises).reshape(size).to(module.dtype))
    losses: list[tuple[str, dict[str, Term]]] = []
    updates = module.updates

    def recorded(batch: Batch) -> Updates:
        for update in updates(batch):
            if isinstance(update, Backward):
                losses.append((update.player, update.terms))
            yield update

    monkeypatch.setattr(module, "updates", recorded)
    batches = [
        {"source": {"image": x}, "target": {"image": y}} for x, y in zip(arrays["x_a"], arrays["x_b"], strict=True)
    ]
    norms = Norms()
    trainer(tmp_path, norms, precision=precision).fit(module, DataLoader(batches, batch_size=None))

    assert next(noises, None) is None
    assert len(losses) == 2 * iterations
    for number, (player, terms) in enumerate(losses):
        found = named(player, terms, MUNIT_TERMS if isinstance(module, MUNIT) else UNIT_TERMS)
        start = f"step{number // 2}/{'dis' if player == 'discriminator' else 'gen'}/"
        wanted = {name.removeprefix(start): float(arrays[name]) for name in arrays if name.startswith(f"{start}loss")}
        for name, value in wanted.items():  # a term of no weight is not computed
            assert found.get(name, 0) == pytest.approx(value, rel=1e-3), start + name
        assert set(found) <= set(wanted)
    for step, found in enumerate(norms.norms):
        start = f"step{step}/param_norm/"
        wanted = {name.removeprefix(start): arrays[name] for name in arrays if name.startswith(start)}
        wanted = {name: float(value) for name, value in nvlabs_state(wanted).items()}
        assert found == pytest.approx(wanted, rel=1e-4, abs=atol)


def named(player: str, terms: dict[str, Term], names: dict[str, str]) -> dict[str, float]:
    """Losses under the recording's names."""
    total = sum(term.weight * term.value.item() for term in terms.values())
    if player == "discriminator":
        found = {f"loss_dis_{a}": terms[f"adversarial_{domain}"].value.item() for domain, a in DOMAINS.items()}
        return {**found, "loss_dis_total": total}
    found = {"loss_gen_total": total}
    for name, term in terms.items():
        kind, _, domain = name.rpartition("_")
        place = {"source": "aba", "target": "bab"}[domain] if kind == "cycle_kl" else DOMAINS[domain]
        found["loss_gen_" + names[kind].format(place)] = term.value.item()
    return found
