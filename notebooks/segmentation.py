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
# # Segmentation: labels for a domain that has none
#
# A network learns to label streets from game-like drawings, whose labels come for free. Then it meets camera-like
# drawings, for which there are none. This notebook looks at what fails, and mends part of it by one round of
# *class-balanced self-training* (CBST, Zou et al., ECCV 2018): the network labels the new images itself, keeps what it
# is surest of, and learns on.
#
# All data is drawn by a program, and nothing is downloaded. The numbers in the next cell make it short: what you see
# is the way things go, not how good they get.

# %%
ITERATIONS = 90  # 600 for the picture in the README
ROUND_ITERATIONS = 20  # 100, and four rounds
IMAGES = 50  # 400
SIZE = (48, 64)  # (96, 128)
WIDTH = 8  # 16; of the network

# %%
import logging
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path

import lightning.pytorch as L
import matplotlib.pyplot as plt
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.optim.swa_utils import update_bn
from torchvision.io import decode_image

from da_lightning.config import CONF_DIR
from da_lightning.segmentation.cbst import CBST
from da_lightning.segmentation.data import SegmentationDataModule
from da_lightning.segmentation.datasets import ToyStreets
from da_lightning.segmentation.module import SegmentationModule
from da_lightning.segmentation.pseudo_labels import class_counts, find_thresholds, realised_shares, select
from da_lightning.segmentation.self_training import SelfTraining
from da_lightning.segmentation.source_only import SourceOnly
from da_lightning.stages import train_in_stages
from da_lightning.toy.streets import CLASSES
from da_lightning.training.callbacks import StopAtIteration

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")

RUN = Path("outputs/notebook_segmentation")
NAMES = list(CLASSES)

# %% [markdown]
# ## The two domains
#
# A data module takes a source set with labels, a target set without, and test sets by name. The target's labels exist
# in its test set alone; the training set does not read them.

# %%
data = SegmentationDataModule(
    classes=CLASSES,
    source=ToyStreets("game", IMAGES, first_seed=0, size=SIZE),
    target=ToyStreets("camera", IMAGES, first_seed=10_000, size=SIZE, labelled=False),
    tests={
        "target": ToyStreets("camera", 20, first_seed=20_000, size=SIZE),
        "source": ToyStreets("game", 20, first_seed=30_000, size=SIZE),
    },
    image_size=SIZE,
    flip=True,
    cache=True,
    batch_size=8,
    eval_batch_size=20,
)
target_tests, source_tests = (next(iter(loader)) for loader in data.test_dataloader())


def show(rows: Mapping[str, Tensor], columns: int = 5) -> None:
    """Rows of pictures: a title, and images [B, 3, H, W] in 0..1 or 0..255."""
    _, axes = plt.subplots(len(rows), columns, figsize=(2.2 * columns, 1.9 * len(rows)), squeeze=False)
    for row, (title, images) in zip(axes, rows.items(), strict=True):
        row[0].set_title(title, loc="left")
        for axis, image in zip(row, images, strict=False):
            axis.imshow(image.permute(1, 2, 0))
        for axis in row:
            axis.axis("off")
    plt.subplots_adjust(left=0, right=1, bottom=0, top=0.95, wspace=0.05, hspace=0.3)
    plt.show()


show({"Source: labelled drawings of a game": source_tests["image"], "Target: a camera": target_tests["image"]})

# %% [markdown]
# ## Source only
#
# A method is a LightningModule: its options are plain numbers, and it trains on any data module of its family. The
# first thing to know is how far one gets without the target.

# %%
options = {
    "classes": CLASSES,
    "network": {"_target_": "da_lightning.segmentation.networks.LightNet", "width": WIDTH},
    "optimizer": {"name": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4},
}


def trainer() -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        callbacks=[StopAtIteration()],  # after the method's own number of iterations
        default_root_dir=RUN,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


L.seed_everything(0, verbose=False)
source_only = SourceOnly(max_iters=ITERATIONS, **options)
run = trainer()
run.fit(source_only, datamodule=data)
run.save_checkpoint(RUN / "source_only.ckpt")
scores = {"source only": run.test(source_only, datamodule=data, verbose=False)[0]}
print(
    f"mIoU on the source {scores['source only']['source/miou']:.1%}, target {scores['source only']['target/miou']:.1%}"
)

# %% [markdown]
# What fails? `pictures` gives the columns that a run also writes to disk: image, prediction, truth.

# %%
image, prediction, truth = source_only.pictures(target_tests, "target")
show({"Target": image, "Source only": prediction, "Truth": truth})


# %%
def bars(scores: Mapping[str, Mapping[str, float]], domain: str) -> None:
    """IoU per class, a group of bars for each class."""
    _, axis = plt.subplots(figsize=(11, 3))
    for number, (method, values) in enumerate(scores.items()):
        places = [place + 0.8 * number / len(scores) for place in range(len(NAMES))]
        axis.bar(
            places, [values[f"{domain}/iou/{name}"] for name in NAMES], 0.8 / len(scores), label=method, align="edge"
        )
    axis.set_xticks([place + 0.4 for place in range(len(NAMES))], NAMES)
    axis.set(title=f"IoU per class on the {domain}", ylim=(0, 1))
    axis.legend()
    plt.show()


bars(scores, "target")

# %% [markdown]
# ## What the network is sure of
#
# Self-training needs labels for the target, and has only the network's own. Which of them are good enough? Let us take
# the surest fifth of all pixels: `portion = 0.2`. One threshold for all classes (ST) takes what is easy and frequent.
# CBST finds a threshold for each class, the confidence that a fifth of *its* pixels reach.


# %%
@torch.no_grad()
def probabilities(segmenter: SegmentationModule) -> Iterator[Tensor]:
    """One pass over the target, as it is: class probabilities [B, K, H, W]."""
    segmenter.eval()
    for batch in data.ordered_loader(data.target_view.unaugmented()):
        yield segmenter(batch["image"]).softmax(1)


found = {
    policy: find_thresholds(lambda: probabilities(source_only), len(NAMES), portion=0.2, policy=policy)
    for policy in ("global", "class_balanced")
}
print(f"{'':12}{'predicted':>10}{'threshold':>22}{'labelled share':>22}")
print(f"{'':22}{'ST':>11}{'CBST':>11}{'ST':>11}{'CBST':>11}")
shares = {}
for policy, thresholds in found.items():
    selected = sum(class_counts(select(p, thresholds.tau), len(NAMES)) for p in probabilities(source_only))
    shares[policy] = realised_shares(selected, thresholds.counts)
for i, name in enumerate(NAMES):
    taus, kept = ([values[i].item() for values in one] for one in ([t.tau for t in found.values()], shares.values()))
    numbers = "".join(f"{number:11.3f}" for number in (*taus, *kept))
    print(f"{name:12}{found['global'].counts[i].item():10d}{numbers}")

# %% [markdown]
# A class that is never predicted has no pixels to rank; its threshold stays at 1. (A share may pass the portion: where
# two classes compete, the one whose threshold is lower may win pixels that were predicted as the other.)

# %%
streets = torch.stack([data.target_view.plain(i)[0] for i in range(5)])
first = next(probabilities(source_only))[:5]
show(
    {
        "Target": streets,
        "Surest fifth of all pixels (ST); black: no label": source_only.coloured(select(first, found["global"].tau)),
        "Surest fifth of each class (CBST)": source_only.coloured(select(first, found["class_balanced"].tau)),
    }
)

# %% [markdown]
# ## A round of self-training
#
# `CBST` brings a callback, `SelfTraining`, which does the above where a round begins: it labels the target, writes the
# labels to disk, and hands them to the data module. Then training goes on, on source labels and pseudo labels as one
# set. It begins from the checkpoint of above.
#
# Before it labels, the callback estimates the statistics of batch norm anew on target images (AdaBN, Li et al., 2016).
# That alone changes much, so it gets a row of its own: two lines of PyTorch.

# %%
adabn = deepcopy(source_only)
update_bn((batch["image"] for batch in data.ordered_loader(data.target_view.unaugmented())), adabn.network)
scores["AdaBN"] = trainer().test(adabn, datamodule=data, verbose=False)[0]

cbst = CBST(
    source_iters=0,  # begin from a checkpoint
    init_from=str(RUN / "source_only.ckpt"),
    rounds=1,
    iters_per_round=ROUND_ITERATIONS,
    round_lr_factor=0.25,
    portion=0.2,
    target_statistics=True,
    **options,
)
run = trainer()
run.fit(cbst, datamodule=data)
round_ = next(callback for callback in run.callbacks if isinstance(callback, SelfTraining))
scores["CBST"] = run.test(cbst, datamodule=data, verbose=False)[0]
for method, values in scores.items():
    print(f"{method:12} mIoU on the target {values['target/miou']:6.1%}, on the source {values['source/miou']:6.1%}")

# %% [markdown]
# The callback keeps what it found, and the label files are ordinary PNGs of class ids (255: no label).

# %%
labels = [decode_image(str(data.target_view.pseudo_label_file(i)))[0] for i in range(len(data.target_view))]
shares = realised_shares(class_counts(torch.stack(labels), len(NAMES)), torch.tensor(round_.counts))
_, axes = plt.subplots(1, 2, figsize=(11, 3))
for axis, title, values in zip(axes, ("Threshold", "Labelled share"), (round_.tau, shares), strict=True):
    axis.barh(NAMES, values)
    axis.set(title=f"{title} per class, round {round_.round}", xlim=(0, 1))
    axis.invert_yaxis()
axes[1].axvline(round_.portions[0], color="black", linewidth=1)  # the portion that was asked for
plt.tight_layout()
plt.show()

# %%
overlays = 0.4 * streets / 255 + 0.6 * cbst.coloured(torch.stack(labels[:5])) / 255
show({f"Target, and pseudo labels of round {round_.round}": streets, "": overlays})

# %% [markdown]
# ## Did it adapt?

# %%
bars(scores, "target")
shown = {"Target": image}
for title, segmenter in {"Source only": source_only, "AdaBN": adabn, "CBST": cbst}.items():
    shown[title] = segmenter.pictures(target_tests, "target")[1]
show(shown | {"Truth": truth})

# %% [markdown]
# With the numbers of the first cell the network has seen 90 batches, and most rare classes are still missing. Turn
# them up. And mind the tables of the README: AdaBN is much of the gain here, too, and on real images random colours in
# training buy more than any adaptation.
#
# ## The same by one command
#
# A command composes the options under `conf/`, trains source only, goes on by rounds, tests both, and writes
# `report.html`:
#
#     python -m da_lightning.run method=cbst data=toy_streets
#
# A notebook hands the same words to the same function. Here they cut the run to a few iterations.

# %%
overrides = f"""
    method=cbst data=toy_streets seed=0 trainer=cpu trainer.enable_progress_bar=false logger=csv
    method.source_iters=5 method.rounds=1 method.iters_per_round=5 method.network.width={WIDTH}
    data.source.count=16 data.target.count=16 data.tests.target.count=8 data.tests.source.count=8
    data.image_size=[{SIZE[0]},{SIZE[1]}]
"""
with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
    cfg = compose("config", overrides=overrides.split())
train_in_stages(cfg, RUN / "cbst", "cbst", "toy_streets")
print(*sorted(path.name for path in (RUN / "cbst").iterdir()), sep="  ")
