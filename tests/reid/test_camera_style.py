"""Camera style by StarGAN and by CycleGAN: domains from cameras, files in the names of the published sets."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiny_people import TinyPeople
from tiny_runs import assert_same, assert_same_training, composed, trainer
from torch import Tensor
from torchvision.io import read_image, write_png

from da_lightning.config.build import build
from da_lightning.errors import DataError, UserError
from da_lightning.reid.camera_style import (
    ByCamera,
    CameraPair,
    CameraStyle,
    OneCamera,
    WriteCameraPair,
    WriteCameraStyles,
)
from da_lightning.translation.cyclegan import CycleGAN
from da_lightning.translation.data import UnpairedImages
from da_lightning.translation.module import as_uint8
from da_lightning.translation.networks.stargan import StarDiscriminator

CAMERAS = [12, 3, 12, 7, 3, 3, 7, 12, 7]
SIZE = 32, 16
ADAM = {"name": "Adam", "lr": 0.001, "betas": [0.5, 0.999]}
DATA = {"image_size": None, "crop_size": None, "batch_size": 2, "eval_batch_size": 4, "iterations_per_epoch": 2}


def method(num_domains: int = 3, **options: Any) -> CameraStyle:
    torch.manual_seed(0)
    sizes = {"width": 4, "residuals": 1, "discriminator_width": 4, "discriminator_layers": 3, "class_kernel": (4, 2)}
    return CameraStyle(num_domains, optimizer=ADAM, **{"max_iters": 4, "critic_steps": 2, **sizes, **options})


def by_camera(cameras: list[int] = CAMERAS) -> UnpairedImages:
    sets = [ByCamera(TinyPeople(cameras, SIZE)) for _ in range(2)]
    return UnpairedImages(*sets, {"source": sets[0], "target": sets[1]}, **DATA)


def written(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*.png")}


# -- data --------------------------------------------------------------------------------------------------------------


def test_domains_are_places_among_the_sorted_cameras() -> None:
    people = TinyPeople(CAMERAS, labelled=True)
    dataset = ByCamera(people)
    assert (dataset.cameras, dataset.labelled) == ([3, 7, 12], False)
    assert [dataset[i]["domain"] for i in range(len(dataset))] == [2, 0, 2, 1, 0, 0, 1, 2, 1]
    assert dataset[1].keys() == {"image", "domain"}
    assert torch.equal(dataset[1]["image"], people[1]["image"])
    assert dataset.name(1) == people.name(1)
    with pytest.raises(DataError, match=r"\b2 images.*camera 4\b.*method\.camera=false"):
        ByCamera(TinyPeople([4, 4]))


def test_one_camera() -> None:
    people = TinyPeople(CAMERAS, labelled=True)
    dataset = OneCamera(people, 7)
    assert [dataset.name(i) for i in range(len(dataset))] == [people.name(i) for i in (3, 6, 8)]
    assert dataset[1].keys() == {"image"}
    assert torch.equal(dataset[1]["image"], people[6]["image"])


@pytest.mark.parametrize("cameras", [None, (3, 4), (7, 7)])
def test_without_a_pair_all_are_listed_ready_for_the_command(cameras: tuple[int, int] | None) -> None:
    with pytest.raises(UserError, match="two of the cameras 3, 7, 12, but is") as told:
        CameraPair(TinyPeople(CAMERAS), TinyPeople(CAMERAS), cameras, **DATA)
    end, flag, *_ = shlex.split(str(told.value).partition("end the command with ")[2])
    assert flag == "-m"
    (override,) = OverridesParser.create().parse_overrides([end])
    assert override.get_key_element() == "data.cameras"
    assert list(override.sweep_string_iterator()) == ["[3,7]", "[3,12]", "[7,12]"]


# -- StarGAN -----------------------------------------------------------------------------------------------------------


def test_windows_of_the_discriminator_may_be_rectangles() -> None:
    """The official 4x2 for what six layers leave of 256x128; fewer layers for smaller images."""
    for size, layers in (((256, 128), 6), ((128, 64), 5), ((64, 32), 4)):
        discriminator = StarDiscriminator(3, width=2, layers=layers, class_kernel=(4, 2))
        assert discriminator.trunk(torch.zeros(1, 3, *size)).shape[2:] == (4, 2)
        realness, classes = discriminator(torch.zeros(1, 3, *size))
        assert (realness.shape, classes.shape) == ((1, 1, 4, 2), (1, 3))
        with pytest.raises(UserError, match=f"{size[0]}x{size[1]}.*{size[1]}x{size[0]}"):
            discriminator(torch.zeros(1, 3, *size[::-1]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[CameraStyle, dict[str, float], Path]:
    folder = tmp_path_factory.mktemp("camera_style")
    module, data = method(), by_camera()
    fit = trainer(folder, WriteCameraStyles(count=2))
    fit.fit(module, data)
    return module, fit.test(module, data, verbose=False)[0], folder


def test_the_number_of_cameras_is_taken_from_the_data_and_kept(trained: Any) -> None:
    module, _, folder = trained
    assert by_camera().facts.num_domains == module.hparams["num_domains"] == module.generator.num_domains == 3
    rebuilt = CameraStyle.load_from_checkpoint(folder / "checkpoints/last.ckpt")
    assert_same(dict(rebuilt.state_dict()), dict(module.state_dict()))


def test_it_goes_on_bit_for_bit(trained: Any, tmp_path: Path) -> None:
    checkpoints = trained[2] / "checkpoints"
    trainer(tmp_path).fit(method(), by_camera(), ckpt_path=checkpoints / "epoch=0.ckpt", weights_only=True)
    assert_same_training(tmp_path / "checkpoints/last.ckpt", checkpoints / "last.ckpt")


def test_weights_of_a_checkpoint_are_a_beginning(trained: Any, tmp_path: Path) -> None:
    module, _, folder = trained
    begun = method(max_iters=0, init_from=str(folder / "checkpoints/last.ckpt"))
    assert_same(dict(begun.state_dict()), dict(module.state_dict()))


def test_what_it_cannot_do_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"num_domains=2\b.*\b3 cameras"):
        trainer(tmp_path).fit(method(num_domains=2), by_camera())
    with pytest.raises(UserError, match="to be ByCamera, but found TinyPeople"):
        trainer(tmp_path).fit(method(), UnpairedImages(*(TinyPeople(CAMERAS, SIZE) for _ in range(2)), **DATA))
    with pytest.raises(UserError, match=r"metrics=\['fid'\] compare two domains"):
        method(metrics=["fid"])


def test_scores_are_round_trips_by_way_of_the_next_camera(trained: Any) -> None:
    module, scores, _ = trained
    dataset, distances = ByCamera(TinyPeople(CAMERAS, SIZE)), []
    for item in (dataset[i] for i in range(len(dataset))):
        image = item["image"][None] / 127.5 - 1
        there = module.generate(image, (item["domain"] + 1) % 3)
        distances.append((module.generate(there, item["domain"]) - image).abs().mean().item())
    assert scores[module.objective] == pytest.approx(sum(distances) / len(distances), rel=1e-4)


def test_pictures_show_an_image_through_each_camera(trained: Any) -> None:
    module = trained[0]
    image = torch.rand(2, 3, *SIZE) * 2 - 1
    original, *through = module.pictures({"image": image}, "target")
    assert torch.equal(original, as_uint8(image))
    for camera, found in enumerate(through):
        assert torch.equal(found, as_uint8(module.generate(image, camera)))
    assert len(through) == 3


def test_each_image_is_written_through_each_other_camera(trained: Any) -> None:
    module, _, folder = trained
    people, cameras = TinyPeople(CAMERAS, SIZE), sorted(set(CAMERAS))
    names = {
        f"{people.name(i)}_fake_{camera}.png" for i, own in enumerate(CAMERAS) for camera in cameras if camera != own
    }
    assert written(folder / "camera_style") == names
    assert len(names) == len(CAMERAS) * 2
    for index, camera in ((0, 3), (0, 7), (8, 12)):
        image = people[index]["image"][None] / 127.5 - 1
        expected = as_uint8(module.generate(image, cameras.index(camera)))[0]
        found = read_image(str(folder / "camera_style" / f"{people.name(index)}_fake_{camera}.png"))
        assert (found.int() - expected.int()).abs().max() <= 1
    picture = read_image(str(folder / "pictures/camera_styles.png"))
    assert picture.shape == (3, 2 * (SIZE[0] + 2) + 2, 4 * (SIZE[1] + 2) + 2)


def test_own_cameras_and_own_sizes_on_request(tmp_path: Path) -> None:
    cameras = [2, 4, 4, 2]
    data = UnpairedImages(
        *(ByCamera(TinyPeople(cameras, (40, 20))) for _ in range(2)), **{**DATA, "image_size": SIZE, "batch_size": 1}
    )
    trainer(tmp_path, WriteCameraStyles(own_camera=True, original_size=True)).fit(
        method(num_domains=2, max_iters=1), data
    )
    people = TinyPeople(cameras)
    names = written(tmp_path / "camera_style")
    assert names == {f"{people.name(i)}_fake_{camera}.png" for i in range(4) for camera in (2, 4)}
    assert all(read_image(str(tmp_path / "camera_style" / name)).shape == (3, 40, 20) for name in names)


# -- CycleGAN ----------------------------------------------------------------------------------------------------------


def pair(cameras: tuple[int, int], root: Path, folder: Path) -> CycleGAN:
    torch.manual_seed(cameras[1])
    module = CycleGAN(optimizer=ADAM, max_iters=1, width=4, residuals=1, discriminator_width=4)
    data = CameraPair(*(TinyPeople(CAMERAS) for _ in range(2)), cameras, **{**DATA, "batch_size": 1})
    trainer(root, WriteCameraPair(str(folder), count=9)).fit(module, data)
    return module


def expected_of(module: CycleGAN, image: Tensor, to: str) -> Tensor:
    return as_uint8(module.generate(image[None] / 127.5 - 1, to))[0].detach()


def test_pairs_write_both_directions_to_one_folder(tmp_path: Path) -> None:
    people, folder = TinyPeople(CAMERAS), tmp_path / "all"
    first = pair((3, 7), tmp_path / "0", folder)
    routes = [(3, 7), (7, 3)]

    def names() -> set[str]:
        return {
            f"{people.name(i)}_fake_{own}to{other}.png"
            for i, camera in enumerate(CAMERAS)
            for own, other in routes
            if own == camera
        }

    assert written(folder) == names()
    assert len(names()) == 6
    for index, route, to in ((1, "3to7", "target"), (3, "7to3", "source")):
        found = read_image(str(folder / f"{people.name(index)}_fake_{route}.png"))
        assert (found.int() - expected_of(first, people[index]["image"], to).int()).abs().max() <= 1
    times = {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    pair((12, 7), tmp_path / "1", folder)
    routes += [(12, 7), (7, 12)]
    assert written(folder) == names()
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert read_image(str(tmp_path / "1/pictures/camera_pair.png")).shape == (3, 4 * 26 + 2, 3 * 26 + 2)


def test_pairs_need_data_of_pairs(tmp_path: Path) -> None:
    module = CycleGAN(optimizer=ADAM, max_iters=1, width=4, residuals=1, discriminator_width=4)
    data = UnpairedImages(*(TinyPeople(CAMERAS) for _ in range(2)), **DATA)
    with pytest.raises(UserError, match="CameraPair.*UnpairedImages"):
        trainer(tmp_path, WriteCameraPair()).fit(module, data)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("person_cameras", ("root",)),
        ("person_camera_pair", ("root", "cameras=[1,3]")),
        ("person_images", ("source.root", "target.root")),
    ],
)
def test_images_of_ones_own_have_their_data(data: str, options: tuple[str, ...], tmp_path: Path) -> None:
    for number, camera in enumerate([1, 3, 1, 3]):
        image = torch.full((3, 40, 20), 50 * number, dtype=torch.uint8)
        write_png(image, str(tmp_path / f"hall_c{camera}_{number}.png"))
    given = [f"data.{option}" if "=" in option else f"data.{option}={tmp_path}" for option in options]
    pair = build(composed(f"data={data}", *given, "data.batch_size=2").data, "data")
    assert len(pair.source_view) == (2 if data == "person_camera_pair" else 4)
    assert pair.source_view[0, 0]["image"].shape == (3, *pair.source_view.augment.crop_size)
