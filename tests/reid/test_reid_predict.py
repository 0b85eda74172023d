"""Ranking files by the command."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import read_image, write_png
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from da_lightning.errors import UserError
from da_lightning.predict import predict
from da_lightning.reid.source_only import ReidSourceOnly

QUERIES, GALLERY = 3, 9


def method(**options: Any) -> ReidSourceOnly:
    torch.manual_seed(0)
    backbone, optimizer = (
        {"_target_": "da_lightning.reid.networks.LightBackbone", "width": 8, "last_stride": 1},
        {"name": "SGD", "lr": 0.1},
    )
    sizes = {"num_persons": 3, "image_size": (64, 32), "interpolation": "bilinear"}
    return ReidSourceOnly(backbone=backbone, optimizer=optimizer, max_iters=1, **{**sizes, **options})


def checkpoint(module: ReidSourceOnly, file: Path) -> str:
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    content["method"] = f"{ReidSourceOnly.__module__}.ReidSourceOnly"
    torch.save(content, file)
    return str(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of several sizes, at several depths; ``trained.ckpt``."""
    folder, draw = tmp_path_factory.mktemp("people"), torch.Generator().manual_seed(0)
    for name, count in (("queries", QUERIES), ("gallery", GALLERY)):
        for number in range(count):
            file = folder / name / f"hall {number % 2}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image = torch.rand(3, 4, 2, generator=draw) * 255
            write_png(resize(image, [70 + number, 40]).to(torch.uint8), str(file))
    checkpoint(method(), folder / "trained.ckpt")
    return folder


def rank(folder: Path, output: Path, **options: Any) -> list[dict[str, str]]:
    words = {"checkpoint": str(folder / "trained.ckpt"), "gallery": str(folder / "gallery"), **options}
    predict(input=str(folder / "queries"), output=str(output), **words)
    with (output / "rankings.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def features(folder: Path, name: str) -> tuple[list[str], Tensor]:
    files = sorted((folder / name).glob("*/*.png"))
    images = [resize(read_image(str(f)), [64, 32], InterpolationMode.BILINEAR, antialias=True) for f in files]
    embedded = method().eval().embed(torch.stack(images) / 255).detach()
    return [f.relative_to(folder / name).as_posix() for f in files], F.normalize(embedded)


def test_rankings_are_those_of_features_at_the_size_of_training(folder: Path, tmp_path: Path) -> None:
    rows = rank(folder, tmp_path, best=4, batch_size=2)
    (queries, query), (names, gallery) = features(folder, "queries"), features(folder, "gallery")
    distances = 1 - query @ gallery.T
    assert [row["query"] for row in rows] == [name for name in queries for _ in range(4)]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"] * QUERIES
    order = distances.argsort(1)[:, :4]
    assert [row["gallery"] for row in rows] == [names[place] for place in order.flatten()]
    found = torch.tensor([float(row["distance"]) for row in rows])
    torch.testing.assert_close(found, distances.gather(1, order).flatten(), rtol=1e-4, atol=1e-5)


def test_the_page_needs_no_other_file_and_shows_the_first_queries(folder: Path, tmp_path: Path) -> None:
    rank(folder, tmp_path, best=4, shown=2)
    page = (tmp_path / "rankings.html").read_text()
    assert page.count("<tr>") == 2
    assert len(re.findall(r'<img src="data:image/jpeg;base64,[\w+/=]{100,}">', page)) == page.count("<img") == 2 * 5
    assert "first 2 of 3 queries" in page
    assert "http" not in page
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rankings.csv", "rankings.html"]


def test_reranked(folder: Path, tmp_path: Path) -> None:
    rows = rank(folder, tmp_path, best=GALLERY, rerank=True)
    plain = rank(folder, tmp_path / "plain", best=20)
    assert len(rows) == len(plain) == QUERIES * GALLERY  # no more than there are
    found = [float(row["distance"]) for row in rows]
    assert [row["query"] for row in rows] == [row["query"] for row in plain]
    for start in range(0, len(rows), GALLERY):
        part = slice(start, start + GALLERY)
        assert {row["gallery"] for row in rows[part]} == {row["gallery"] for row in plain[part]}
        assert found[part] == sorted(found[part])
    assert found != [float(row["distance"]) for row in plain]


def test_names_are_escaped(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "in" / "<b>&.png"
    file.parent.mkdir()
    file.write_bytes(next((folder / "gallery").glob("*/0.png")).read_bytes())
    rank(folder, tmp_path / "out", gallery=str(file.parent))
    assert "&lt;b&gt;&amp;.png" in (tmp_path / "out" / "rankings.html").read_text()


def test_what_does_not_fit_is_told(folder: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"gallery": str(tmp_path / "nothing")}, "does not exist"),
        ({"best": 0}, "best=0 was refused: input should be"),
        ({"image_size": 64}, "image_size is not an option"),
        ({"gallery": str(tmp_path)}, "lie one in the other"),
    ):
        with pytest.raises(UserError, match=message):
            rank(folder, tmp_path / "out", **options)
    with pytest.raises(UserError, match="add gallery="):
        predict(checkpoint=str(folder / "trained.ckpt"), input=str(folder / "queries"), output=str(tmp_path / "out"))
    silent = checkpoint(method(image_size=None), tmp_path / "silent.ckpt")
    with pytest.raises(UserError, match="image size"):
        rank(folder, tmp_path / "out", checkpoint=silent)


def test_the_longest_image_has_a_thumbnail(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    write_png(torch.zeros(3, 1, 3000, dtype=torch.uint8), str(tmp_path / "long" / "x.png"))
    rank(folder, tmp_path / "out", gallery=str(tmp_path / "long"))
    assert "x.png" in (tmp_path / "out" / "rankings.html").read_text()
