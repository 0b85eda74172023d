"""What would end a training late, or in torch's own words: refused before it, in a sentence, or made to work."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_runs import METHODS, alone, built, composed, tiny, trainer
from torch import nn
from torchvision.transforms.v2 import functional as TF

from da_lightning import stages
from da_lightning.data.views import Resize
from da_lightning.errors import DataError, UserError
from da_lightning.training.callbacks import Pictures
from da_lightning.training.rehearsal import rehearse, size_problem
from da_lightning.translation.datasets import ImageFolder


def side_of(method: str, side: int) -> str:
    """The option that makes training images of that side."""
    data = composed(f"method={method}", *tiny(method)).data
    return f"data.{'crop_size' if data.get('crop_size') else 'image_size'}=[{side},{side}]"


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_small_images_and_batches_train_or_are_refused_before(method: str, tmp_path: Path) -> None:
    for number, option in enumerate((side_of(method, 8), "data.batch_size=1", side_of(method, 1))):
        refusal = None
        try:
            module, data = built(method, option, "method.max_iters=1")
            module.check_batch(data.training_shapes)
        except UserError as error:
            refusal = str(error)
        if refusal is None:
            run = trainer(tmp_path / str(number), limit_train_batches=1)
            try:
                run.fit(module, datamodule=data)
            except UserError as error:  # of a constructor's or a first step's own
                refusal = str(error)
        assert refusal is None or (refusal.endswith(".") and "torch" not in refusal.partition("(")[0]), refusal


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_rehearsal_leaves_no_trace(method: str) -> None:
    module, data = built(method)
    before, state = {name: tensor.clone() for name, tensor in module.state_dict().items()}, torch.get_rng_state()
    module.check_batch(data.training_shapes)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("reid_source_only", ["data.batch_size=1"], "Norms need more than one value .* 1 source of 32x32"),
        ("ecn", ["data.batch_size=1"], "raise data.batch_size"),
        ("ecn", ["data.target_batch_size=1", "method.source_iters=100"], "1 target of 32x32"),
        ("spgan", ["data.batch_size=1"], "raise data.batch_size"),
        ("munit", ["data.crop_size=[8,8]"], "2 source of 8x8 and 2 target of 8x8, are too small"),
        ("munit", ["data.crop_size=[18,18]"], "multiples of 4, but found 18x18"),
        ("cyclegan", ["data.crop_size=[4,4]"], "are too small"),
        ("adaptsegnet", ["data.image_size=[16,16]", "method.source_iters=100"], "at least 32x32 .* discriminator"),
        ("adaptsegnet", ["method.source_iters=100", "method.network.multi_level=false"], "method.levels=2"),
        ("segmentation_source_only", ["data.batch_size=1", "data.image_size=[8,8]"], "Norms need more"),
    ],
)
def test_what_the_networks_cannot_take_is_said_before_training(method: str, options: list[str], message: str) -> None:
    module, data = built(method, *options)
    with pytest.raises(UserError, match=message):
        module.check_batch(data.training_shapes)
    assert all(not tensor.is_meta for tensor in module.state_dict().values())


def test_a_batch_that_is_too_small_does_not_wait_for_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []
    monkeypatch.setattr(stages, "train_and_test", lambda *place: begun.append(place))
    with pytest.raises(UserError, match="Norms need more"):
        stages.train_in_stages(composed("method=spgan", *tiny("spgan"), "data.batch_size=1"), Path("run"), "m", "d")
    assert not begun


def test_a_network_that_needs_numbers_is_not_refused() -> None:
    def step(images: dict[str, torch.Tensor]) -> None:
        if images["source"].sum() > 0:
            raise AssertionError

    rehearse(nn.Identity(), step, {"source": (2, 3, 8, 8)})
    assert size_problem(RuntimeError("CUDA out of memory"), {"source": (2, 3, 8, 8)}) is None


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_method_of_ones_own_that_is_too_small_says_so_in_its_step(error: type[Exception], tmp_path: Path) -> None:
    module, data = built("segmentation_source_only")

    def updates(batch: Any) -> Any:
        raise error("Expected more than 1 spatial element when training, got input size [1, 8, 1, 1]")
        yield

    module.updates = updates  # type: ignore[method-assign]
    with pytest.raises(UserError, match="2 source of 32x48 and 2 target of 32x48"):
        trainer(tmp_path).fit(module, datamodule=data)


# -- sets whose images differ in size ----------------------------------------------------------------------------------


def images(folder: Path, sizes: list[tuple[int, int]], mode: str = "RGB") -> None:
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        Image.new(mode, size, number % 2).save(folder / f"{number}.png")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name, sizes in {"same": [(48, 32)] * 4, "mixed": [(48, 32), (40, 56), (48, 32), (64, 64)]}.items():
        images(tmp_path / name / "images", sizes)
        images(tmp_path / name / "labels", sizes, "L")
    return tmp_path


def test_labels_of_several_sizes_are_tested_one_at_a_time(folders: Path, tmp_path: Path) -> None:
    from da_lightning.segmentation.data import SegmentationDataModule
    from da_lightning.segmentation.datasets import ImageLabelFolder

    def labelled(name: str, is_labelled: bool = True) -> Any:
        return ImageLabelFolder(folders / name, 2, labelled=is_labelled)

    data = SegmentationDataModule(
        {"a": [1, 2, 3], "b": [4, 5, 6]},
        labelled("same"),
        labelled("same", False),
        tests={"target": labelled("mixed"), "source": labelled("same")},
        image_size=(32, 48),
        eval_batch_size=3,
    )
    mixed, same = data.test_dataloader()
    assert [len(batch["image"]) for batch in mixed] == [1, 1, 1, 1]
    assert [len(batch["image"]) for batch in same] == [3, 1]


def test_test_images_of_several_sizes_are_translated_one_at_a_time(folders: Path) -> None:
    _, data = built("munit")
    data = type(data)(
        ImageFolder(folders / "same" / "images"),
        ImageFolder(folders / "same" / "images"),
        {"source": ImageFolder(folders / "mixed" / "images"), "target": ImageFolder(folders / "same" / "images")},
        image_size=None,
        crop_size=(32, 32),
        eval_batch_size=2,
    )
    assert [loader.batch_size for loader in data.test_dataloader()] == [1, 2]


def test_pictures_of_test_images_of_several_sizes_share_a_grid(folders: Path, tmp_path: Path) -> None:
    module, data = built("munit", "method.max_iters=1")
    sets = {name: ImageFolder(folders / "mixed" / "images") for name in ("source", "target")}
    data = type(data)(*data_sets(folders), sets, image_size=None, crop_size=(32, 32), batch_size=2, eval_batch_size=2)
    run = trainer(tmp_path, Pictures())
    run.fit(module, datamodule=data)
    run.test(module, datamodule=data, verbose=False)
    grid = Image.open(tmp_path / "pictures" / "test_source.png")
    assert grid.size == (2 + 5 * 66, 2 + 4 * 66)  # image, three translations and round trip, of 64x64 at most


def data_sets(folders: Path) -> tuple[ImageFolder, ImageFolder]:
    return ImageFolder(folders / "same" / "images"), ImageFolder(folders / "same" / "images")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": None, "crop_size": None}, "Training images are of 3 sizes.*crop_size"),
        ({"image_size": 32, "crop_size": None}, "Training images are of 3 sizes"),
        ({"image_size": None, "crop_size": (48, 48)}, "smaller than the crop of 48x48"),
        ({"image_size": 32, "crop_size": (32, 64)}, "smaller than the crop of 64x32"),
        ({"image_size": 32, "crop_size": (32, 32)}, None),
        ({"image_size": (32, 64), "crop_size": None}, None),
    ],
)
def test_training_images_that_would_stop_a_training_are_found_before(
    options: dict[str, Any], message: str | None, folders: Path
) -> None:
    _, data = built("munit")
    mixed = ImageFolder(folders / "mixed" / "images")
    data = type(data)(mixed, mixed, **options)
    if message is None:
        assert len(data.training_sizes) == 2
    else:
        with pytest.raises(DataError, match=message):
            _ = data.training_sizes


@pytest.mark.parametrize("size", [None, 30, 31, (20, 20)])
def test_sizes_after_resizing_are_those_of_torchvision(size: Any, folders: Path) -> None:
    dataset, resize = ImageFolder(folders / "mixed" / "images"), Resize(size, "bilinear")
    expected = {tuple(resize(dataset[index]["image"]).shape[1:]) for index in range(len(dataset))}
    assert resize.sizes(dataset) == expected
    assert dataset.sizes() == {tuple(TF.get_size(dataset[index]["image"])) for index in range(len(dataset))}


# -- precisions --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_shown_with_all_weights_in_bfloat16(method: str, tmp_path: Path) -> None:
    trained_in("bf16-true", method, tmp_path)


def trained_in(precision: str, method: str, folder: Path) -> None:
    """Two iterations, pictures and a test."""
    assert {*alone(method)} <= {"method.camera=false"}
    module, data = built(method, "method.max_iters=2")
    run = trainer(folder, Pictures(), precision=precision)
    run.fit(module, datamodule=data)
    run.test(module, datamodule=data, verbose=False)
    assert all(p.isfinite().all() for p in module.parameters())
