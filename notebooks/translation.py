# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Translation: one drawing, many shoes
#
# MUNIT (Huang et al., ECCV 2018) learns from two heaps of images that have no pairs. It takes an image for two codes:
# a *content*, which both domains share, and a *style*, which is drawn anew for each translation. So a line drawing has
# many photos. This notebook looks at one update, then at styles, and at last carries labels from one domain into the
# other.
#
# All data is drawn by a program, and nothing is downloaded. The numbers in the next cell make it short: a translator
# of so few iterations knows outlines, and hardly any colours. The README's picture is by the recipe in the last cell.

# %%
ITERATIONS = 50  # 1,500 for the picture in the README, with all of what stands on the right
LEARNING_RATE = 2e-3  # 5e-4
SIZE = (32, 32)  # (64, 64)
HALVINGS = 1  # 2; of an image before its content code
WIDTH = 8  # 16; of generators and discriminators
IMAGES = 100  # 1,000
BATCH = 4  # 2

# %%
import logging
import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as L
import matplotlib.pyplot as plt
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torchvision.io import decode_image, write_png

from da_lightning.config import CONF_DIR
from da_lightning.config.build import build
from da_lightning.predict import predict
from da_lightning.toy.shoes import edges
from da_lightning.training.callbacks import StopAtIteration
from da_lightning.training.optimizers import make_optimizer
from da_lightning.training.players import Step
from da_lightning.translation.data import UnpairedImages
from da_lightning.translation.datasets import ToyShoes
from da_lightning.translation.module import as_uint8
from da_lightning.translation.munit import MUNIT

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")

RUN = Path("outputs/notebook_translation")

# %% [markdown]
# ## The two domains
#
# The source are line drawings, the target photos of *other* shoes: no drawing has its photo among them. Images are RGB
# in [-1, 1].

# %%
data = UnpairedImages(
    source=ToyShoes("drawing", IMAGES, first_seed=0, size=SIZE),
    target=ToyShoes("photo", IMAGES, first_seed=10_000, size=SIZE),
    tests={
        "source": ToyShoes("drawing", 20, first_seed=20_000, size=SIZE),
        "target": ToyShoes("photo", 20, first_seed=30_000, size=SIZE),
    },
    image_size=None,  # as they are drawn
    crop_size=None,
    flip=False,  # toes point left
    cache=True,
    batch_size=BATCH,
    eval_batch_size=10,
)
drawings, photos = (next(iter(loader))["image"] for loader in data.test_dataloader())


def show(rows: Mapping[str, Tensor]) -> None:
    """Rows of pictures: a title, and images [B, 3, H, W] in [-1, 1] or 0..255."""
    columns = max(map(len, rows.values()))
    _, axes = plt.subplots(len(rows), columns, figsize=(1.3 * columns, 1.6 * len(rows)), squeeze=False)
    for row, (title, images) in zip(axes, rows.items(), strict=True):
        row[0].set_title(title, loc="left")
        for axis in row:
            axis.axis("off")
        for axis, image in zip(row, images if images.dtype == torch.uint8 else as_uint8(images), strict=False):
            axis.imshow(image.permute(1, 2, 0))
    plt.subplots_adjust(left=0, right=1, bottom=0, top=0.95, wspace=0.05, hspace=0.3)
    plt.show()


show({"Source: drawings": drawings, "Target: photos of other shoes": photos})

# %% [markdown]
# ## One update, by hand
#
# A method says who plays and what they minimise. `players` are the networks that one loss moves, each with its
# optimiser; `updates` yields a player and the terms of its loss, by name and weight, and computes the next player's
# only after this one has moved. Usually the module does the stepping; here it is written out.

# %%
options = {
    "optimizer": {"name": "Adam", "lr": LEARNING_RATE, "betas": [0.5, 0.999], "weight_decay": 1e-4},
    "width": WIDTH,
    "downsamples": HALVINGS,
    "residuals": HALVINGS,
    "mlp_width": 64,
    "discriminator_width": WIDTH,
    "discriminator_layers": 2 * HALVINGS,
    "discriminator_scales": 2 * HALVINGS - 1,
    "lr_step": 750,
}
L.seed_everything(0, verbose=False)
munit = MUNIT(max_iters=ITERATIONS, **options)
players = munit.players()
optimizers = {name: make_optimizer(player.groups, player.optimizer) for name, player in players.items()}
batch, *_ = next(iter(data.train_dataloader()))
for update in munit.updates(batch):
    player = update.player
    if isinstance(update, Step):
        optimizers[player].step()
        continue
    optimizers[player].zero_grad()
    loss = torch.stack([term.weight * term.value for term in update.terms.values()]).sum()
    loss.backward()
    print(f"{player}: loss {loss:.3f}")
    for name, term in update.terms.items():
        print(f"    {term.weight:5.1f} x {name:24}{term.value:.3f}")

# %% [markdown]
# The generators want to be taken for real (`adversarial`), to give back an image from its own two codes
# (`reconstruction`), and to find again in a translation the style it was drawn with (`style`) and the content it was
# made from (`content`).
#
# ## Training
#
# Each term is logged as `train/<player>/<term>`. Any Lightning logger takes them; a callback of ten lines does for a
# plot.


# %%
class Curves(L.Callback):
    """Keeps what is logged in each iteration."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        for name, value in trainer.callback_metrics.items():
            self.values[name].append(value.item())


L.seed_everything(0, verbose=False)
munit, curves = MUNIT(max_iters=ITERATIONS, **options), Curves()
trainer = L.Trainer(
    accelerator="cpu",
    max_epochs=-1,
    callbacks=[StopAtIteration(), curves],  # StopAtIteration: after the method's own number of iterations
    default_root_dir=RUN,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(munit, datamodule=data)
trainer.save_checkpoint(RUN / "last.ckpt")

_, axes = plt.subplots(1, 2, figsize=(11, 3))
for axis, player in zip(axes, players, strict=True):
    for name, values in curves.values.items():
        if name.startswith(f"train/{player}/") and not name.endswith("/loss"):
            axis.plot(values, label=name.split("/")[-1], linewidth=1)
    axis.set(title=f"Terms of the {player}'s loss, unweighted", xlabel="iteration", yscale="log")
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Styles
#
# `translate` draws a style from N(0, 1) where none is given. Four drawings, each under the same four styles:

# %%
munit.eval()
styles = torch.randn(4, munit.style_dim, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    rows = {"Drawings": drawings[:4]}
    for number, style in enumerate(styles, 1):
        rows[f"Style {number}"] = munit.translate(drawings[:4], "target", style.expand(4, -1))
show(rows)

# %% [markdown]
# Codes can be mixed: from one style to another, step by step. And a style can be that of a given photo.

# %%
with torch.no_grad():
    between = torch.lerp(styles[0], styles[1], torch.linspace(0, 1, 8)[:, None])
    strip = munit.translate(drawings[:1].expand(8, -1, -1, -1), "target", between)
    of_photos = munit.encode_style(photos[:8], "target")
    guided = munit.translate(drawings[:1].expand(8, -1, -1, -1), "target", of_photos)
show({"From style 1 to style 2": strip, "Photos": photos[:8], "The first drawing in the photos' styles": guided})

# %% [markdown]
# ## Labels that come along
#
# A translation keeps shapes, so labels of the source hold for the translation: a labelled source set becomes a
# labelled set that looks like the target. Streets by day become streets at dusk, with their label maps. Here the
# labels are the lines of a drawing (1: line, 0: none), as one would want them to train a line detector for photos.
#
# `predict` does that for folders of files. On the command line it is `python -m da_lightning.predict checkpoint=...
# input=labelled output=translated styles=2`.

# %%
for folder in ("images", "labels"):
    (RUN / "labelled" / folder).mkdir(parents=True, exist_ok=True)
for number, drawing in enumerate(as_uint8(drawings[:4])):
    label = torch.from_numpy(edges(drawing.permute(1, 2, 0).numpy())).to(torch.uint8)
    write_png(drawing, str(RUN / "labelled" / "images" / f"{number}.png"))
    write_png(label[None], str(RUN / "labelled" / "labels" / f"{number}.png"))
predict(
    checkpoint=str(RUN / "last.ckpt"),
    input=str(RUN / "labelled"),
    output=str(RUN / "translated"),
    overwrite=True,
    styles=2,
)
files = sorted((RUN / "translated" / "images").iterdir())
translated = torch.stack([decode_image(str(file)) for file in files])
labels = torch.stack([decode_image(str(file.parents[1] / "labels" / file.name)) for file in files])
marked = translated.where(labels == 0, torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None])
show({"Translated, two styles for each drawing": translated, "With the labels that came along (red)": marked})

# %% [markdown]
# ## The same from the options
#
# `conf/` holds a recipe for each row of a paper, and ours. The command line composes it; so does a notebook, and gets
# the objects of above. Names of options are the arguments of the constructors.

# %%
with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
    cfg = compose("config", overrides=["experiment=munit_toy_shoes", "seed=1"])
from_recipe, its_data = build(cfg.method, "method"), build(cfg.data, "data")
print(type(from_recipe).__name__, f"for {from_recipe.max_iters} iterations on {len(its_data.source)} drawings")
print(f"{sum(p.numel() for p in from_recipe.parameters()):,} parameters, here {munit.max_iters} iterations of", end=" ")
print(f"{sum(p.numel() for p in munit.parameters()):,}")

# %% [markdown]
# The whole run, with checkpoints, pictures and a report: `python -m da_lightning.run experiment=munit_toy_shoes`.
