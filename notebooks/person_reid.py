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
# # Person re-identification: the same person, another camera
#
# A query shows somebody; the gallery is to be ordered so that pictures of the same person come first. A network that
# learned this from the labelled cameras of a street fails at the cameras of a station, whose pictures nobody has
# labelled. This notebook looks at what cameras do, how a ranking is scored, what ECN remembers, and ends with SPGAN
# and ECN.
#
# All people are drawn by a program, and nothing is downloaded. Take pictures of real people with their consent or
# another lawful ground only. The numbers in the next cell make it short, and the scores low.

# %%
ITERATIONS = 40  # 600 for the tables in the README
PERSONS = 25  # 150; in each of the training sets
TEST_PERSONS = 15  # 100
BATCH = 32  # 64
WIDTH = 16  # 32; of the network
TRANSLATOR_ITERATIONS = 4  # 1,000

# %%
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as L
import matplotlib.pyplot as plt
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.nn import functional as F

from da_lightning.config import CONF_DIR
from da_lightning.reid.data import PersonDataModule
from da_lightning.reid.datasets import QueryGallery, ToyPeople
from da_lightning.reid.exemplar_memory import ExemplarMemory
from da_lightning.reid.ranking import rank
from da_lightning.reid.source_only import ReidSourceOnly
from da_lightning.stages import train_in_stages
from da_lightning.training.callbacks import StopAtIteration

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")

RUN = Path("outputs/notebook_person_reid")
STREET, STATION = "street", "station"

# %% [markdown]
# ## What cameras do
#
# The same person under the four cameras of each network. Light, colour, angle and background are the camera's; clothes
# are the person's.


# %%
def show(rows: Mapping[str, list[Tensor]]) -> None:
    """Rows of pictures: a title, and images [3, H, W] in 0..1 or 0..255."""
    columns = max(map(len, rows.values()))
    _, axes = plt.subplots(len(rows), columns, figsize=(0.9 * columns, 2.1 * len(rows)), squeeze=False)
    for row, (title, images) in zip(axes, rows.items(), strict=True):
        row[0].set_title(title, loc="left")
        for axis in row:
            axis.axis("off")
        for axis, image in zip(row, images, strict=False):
            axis.imshow(image.permute(1, 2, 0))
    plt.subplots_adjust(left=0, right=1, bottom=0, top=0.95, wspace=0.05, hspace=0.2)
    plt.show()


rows = {}
for network in (STREET, STATION):
    people = ToyPeople(network, persons=PERSONS)
    person = max(people.persons, key=people.persons.count)  # somebody whom all cameras see
    items = [item for item in people if item["person"] == person]
    rows[f"Person {person}, {network}, cameras 1 to 4, four pictures each"] = [item["image"] for item in items]
show(rows)

# %% [markdown]
# The data module takes a labelled source, an unlabelled target (its samples have a `camera` and no `person`), and
# tests of queries and a gallery, of people who are in neither. A gallery also has distractors, people nobody asks for,
# and junk, bad boxes as a detector makes them.


# %%
def tested(network: str) -> QueryGallery:
    query, gallery = (
        ToyPeople(network, part, persons=TEST_PERSONS, first_person=1001, distractors=20, junk=10)
        for part in ("query", "gallery")
    )
    return QueryGallery(query, gallery)


data = PersonDataModule(
    source=ToyPeople(STREET, persons=PERSONS),
    target=ToyPeople(STATION, persons=PERSONS, labelled=False),
    tests={"target": tested(STATION), "source": tested(STREET)},
    image_size=(64, 32),
    crop="pad",
    cache=True,
    batch_size=BATCH,
    target_batch_size=1,  # source-only training does not look at it
    eval_batch_size=128,
)
print(f"{len(data.source_view)} source images of {data.num_persons} persons, {data.target_size} target images")

# %% [markdown]
# ## Source only
#
# The persons of the source are classes; at test the classifier is dropped, and features are compared.

# %%
L.seed_everything(0, verbose=False)
source_only = ReidSourceOnly(
    **data.facts.options(ReidSourceOnly, {}),  # persons, image size
    backbone={"_target_": "da_lightning.reid.networks.LightBackbone", "width": WIDTH},
    optimizer={"name": "AdamW", "lr": 2e-3, "weight_decay": 0.02},
    backbone_lr_factor=1.0,
    head="batch_norm",
    dropout=0.0,
    feature="embedding",
    flip_average=True,
    max_iters=ITERATIONS,
)
trainer = L.Trainer(
    accelerator="cpu",
    max_epochs=-1,
    callbacks=[StopAtIteration()],  # after the method's own number of iterations
    default_root_dir=RUN,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(source_only, datamodule=data)
scores = trainer.test(source_only, datamodule=data, verbose=False)[0]
print(f"{'':16}{'source':>8}{'target':>8}")
for name in ("map", "rank1", "rank5", "rank10"):
    print(f"{name:16}{scores[f'source/{name}']:8.1%}{scores[f'target/{name}']:8.1%}")

# %% [markdown]
# The test leaves a picture: a query a row, then the best of the gallery, green where it is the same person.

# %%
_, axes = plt.subplots(1, 2, figsize=(11, 7))
for axis, domain in zip(axes, ("source", "target"), strict=True):
    axis.imshow(plt.imread(RUN / "pictures" / f"ranking_{domain}.png"))
    axis.set_title(f"Rankings on the {domain}: query, then the best ten")
    axis.axis("off")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## What the scores count, and what they drop
#
# The rules are those of Market-1501: for each query, junk and the pictures of the *same person by the same camera* are
# taken out of the gallery, for they are too easy or too bad to count. The others are ranked; rank-k is the share of
# queries with a right one among the first k (the CMC curve), and mAP the mean over queries of the average precision.
#
# `rank` scores any distances. Keep what should be dropped, and the score flatters:

# %%
test = data.test_dataloader()[0]  # the target's
source_only.eval()
with torch.no_grad():
    batches = [batch | {"features": source_only(batch["image"])} for batch in test]
features, person, camera, is_query = (
    torch.cat([batch[key] for batch in batches]) for key in ("features", "person", "camera", "is_query")
)
features = F.normalize(features)
distances = 1 - features[is_query] @ features[~is_query].T
labels = {"query_person": person[is_query], "query_camera": camera[is_query], "person": person[~is_query]}
by_rules = rank([distances], **labels, camera=camera[~is_query])
all_kept = rank([distances], **labels, camera=camera[~is_query] + 100)  # as if no camera were the query's

own = (labels["query_person"][:, None] == labels["person"]) & (labels["query_camera"][:, None] == camera[~is_query])
junk, distractors = (int((person == number).sum()) for number in (-1, 0))
print(
    f"{int(is_query.sum())} queries; {int((~is_query).sum())} in the gallery, {junk} junk and {distractors} distractors"
)
print(f"dropped for each query by its own camera: {own.sum(1).float().mean():.1f}")
for title, result in {"by the rules": by_rules, "own camera kept": all_kept}.items():
    print(f"{title:18}" + "".join(f"{name} {value:.1%}  " for name, value in result.means().items()))

ranks = torch.arange(1, 31)
_, axis = plt.subplots(figsize=(6, 3.5))
for title, result in {"By the rules": by_rules, "Own camera kept": all_kept}.items():
    axis.plot(ranks, (result.first[:, None] <= ranks).double().mean(0), label=title)
axis.set(title="CMC on the target", xlabel="rank k", ylabel="share of queries", ylim=(0, 1))
axis.legend()
plt.show()

# %% [markdown]
# ## What ECN remembers
#
# ECN (Zhong et al., CVPR 2019) takes each target image for a class of its own. Its memory has a row for each, the
# image's last feature; the loss is a softmax over all rows. With *neighbourhoods*, the nearest rows count as right
# ones, too.
#
# Here are eight features of length 1 in the plane, in three groups. Where does the loss move the first one?

# %%
angles = torch.tensor([10.0, 25, 40, 130, 150, 165, 260, 285]).deg2rad()
rows = torch.stack([angles.cos(), angles.sin()], 1)
memory = ExemplarMemory(size=len(rows), dim=2, beta=0.3, neighbours=3)
memory.update(rows, torch.arange(len(rows)), alpha=0.0)  # row = 0 * row + 1 * feature

_, axes = plt.subplots(1, 2, figsize=(8, 4))
for axis, neighbourhood in zip(axes, (False, True), strict=True):
    v = F.normalize(torch.tensor([[1.0, 0.0]])).requires_grad_()  # image 0 as the network sees it now
    loss, _ = memory.loss(v, torch.tensor([0]), neighbourhood)
    loss.backward()
    (x, y), (dx, dy) = v[0].tolist(), (-0.3 * v.grad[0]).tolist()
    axis.scatter(*memory.bank.T, label="memory")
    axis.scatter(*memory.bank[0], color="tab:red", label="its own row")
    axis.scatter(x, y, color="black", label="image 0")
    axis.arrow(x, y, dx, dy, head_width=0.06, color="black")
    axis.set(title=f"{'Three neighbours' if neighbourhood else 'Itself alone'}: loss {loss:.2f}", xlim=(-1.5, 1.5))
    axis.set(ylim=(-1.5, 1.5), aspect="equal")
    axis.legend(loc="lower left", fontsize=7)
plt.show()

# %% [markdown]
# Told from all others, the image also flees those that look like it; with neighbours it goes to where they are.
#
# Afterwards the row follows the image: `row = alpha * row + (1 - alpha) * feature`, normalised. `alpha` grows with the
# epochs, so the memory becomes slower.

# %%
for alpha in (0.0, 0.5, 0.9):
    memory.update(rows, torch.arange(len(rows)), alpha=0.0)
    memory.update(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), alpha=alpha)
    turned = torch.atan2(*memory.bank[0].flip(0)).rad2deg()
    print(f"alpha {alpha}: the row at 10 degrees, updated by a feature at 90, is at {turned:.0f}")

# %% [markdown]
# ## Methods of several trainings
#
# SPGAN translates the labelled source into the look of the target, then trains on the translations; ECN wants each
# target image in the styles of the other cameras. Such *stages* come first, in folders of their own. On the command
# line this is
#
#     python -m da_lightning.run method=spgan
#     python -m da_lightning.run method=ecn
#     python -m da_lightning.run method=ecn method.camera=false     # no images in camera styles, so no stage
#
# and from a notebook the same options are composed and handed on. A few iterations show where things land, nothing
# else.

# %%
overrides = f"""
    method=spgan trainer=cpu trainer.enable_progress_bar=false logger=csv seed=0
    method.max_iters={ITERATIONS // 10} method.backbone.width={WIDTH}
    stages.translator.method.max_iters={TRANSLATOR_ITERATIONS} stages.translator.method.width=8
    data.source.persons=8 data.target.persons=8 data.batch_size=8
    data.tests.source.query.persons=8 data.tests.target.query.persons=8
"""
with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
    cfg = compose("config", overrides=overrides.split())
train_in_stages(cfg, RUN / "spgan", "spgan", "toy_people")
print(*sorted(str(file.relative_to(RUN)) for file in (RUN / "spgan").iterdir()), sep="  ")
print(f"{len(list((RUN / 'spgan' / 'translator' / 'translated').glob('*.png')))} translated source images")

plt.figure(figsize=(11, 3))
plt.imshow(plt.imread(RUN / "spgan" / "translator" / "pictures" / "translations.png"))
plt.title("Street people, and below each in the station's look")
plt.axis("off")
plt.show()
