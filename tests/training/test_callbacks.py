from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from tiny_runs import built, trainer
from torch import nn
from torchvision.io import decode_image

from da_lightning.training.callbacks import ChannelsLast, Pictures


def shape(file: Path) -> tuple[int, ...]:
    return tuple(decode_image(str(file)).shape)


def grid(rows: int, columns: int, height: int = 32, width: int = 48) -> tuple[int, ...]:
    """Of RGB cells with two pixels of padding."""
    return 3, rows * (height + 2) + 2, columns * (width + 2) + 2


def test_pictures_of_training_and_of_each_test_set(tmp_path: Path) -> None:
    module, data = built("cbst", "data.tests.target.count=5", "data.eval_batch_size=1")
    run = trainer(tmp_path, Pictures(every_n_epochs=100, count=3))
    run.fit(module, data)
    run.test(module, data, verbose=False)
    pictures = tmp_path / "pictures"
    # Two samples a batch: image, prediction and what it is trained on.
    assert shape(pictures / "train_source.png") == shape(pictures / "train_target.png") == grid(2, 3)
    assert shape(pictures / "test_target.png") == shape(pictures / "test_source.png") == grid(3, 3)


def test_pictures_are_drawn_where_training_ends_inside_an_epoch(tmp_path: Path) -> None:
    module, data = built("segmentation_source_only", "method.max_iters=3", "data.iterations_per_epoch=5")
    trainer(tmp_path, Pictures(every_n_epochs=100)).fit(module, data)
    assert (tmp_path / "pictures" / "train_source.png").is_file()


def test_a_row_shows_the_image_its_prediction_and_its_label(tmp_path: Path) -> None:
    module, data = built("segmentation_source_only", "data.tests.target.count=1")
    run = trainer(tmp_path, Pictures(count=1))
    run.fit(module, data)
    run.test(module, data, verbose=False)
    sample = data.tests["target"][0]
    cells = decode_image(str(tmp_path / "pictures" / "test_target.png"))[:, 2:34, 2:].unfold(2, 48, 50)
    with torch.no_grad():
        prediction = module.eval()(sample["image"][None]).argmax(1)[0]
    expected = (sample["image"] * 255).to(torch.uint8), module.coloured(prediction)
    for column, image in enumerate(expected):
        torch.testing.assert_close(cells[:, :, column], image, rtol=0, atol=1)
    label = sample["label"].float()[None, None]
    small = nn.functional.interpolate(label, size=(32, 48), mode="nearest")[0, 0].long()
    torch.testing.assert_close(cells[:, :, 2], module.coloured(small), rtol=0, atol=1)


def test_pictures_leave_the_training_mode_alone(tmp_path: Path) -> None:
    class Modes(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            assert pl_module.training

    module, data = built("segmentation_source_only")
    trainer(tmp_path, Pictures(every_n_epochs=1), Modes()).fit(module, data)


def test_channels_last_weights_compute_the_same(tmp_path: Path) -> None:
    ends = []
    for callbacks in ([], [ChannelsLast()]):
        module, data = built("segmentation_source_only", "method.optimizer.momentum=0.0")
        trainer(tmp_path / str(len(callbacks)), *callbacks).fit(module, data)
        ends.append(module)
    weights = [m.weight for m in ends[1].network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(*(module.eval()(images) for module in ends), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("method", ["cbst", "adaptsegnet"])
def test_source_only_weights_are_kept_even_without_a_source_phase(method: str, tmp_path: Path) -> None:
    """Where a round starts at once they are the weights that the run was given."""
    module, data = built(method, "method.source_iters=0")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer(tmp_path).fit(module, data)
    kept = tmp_path / "checkpoints" / "source_only.ckpt"
    assert kept.is_file() == (method == "cbst")
    if method == "cbst":
        state = torch.load(kept, weights_only=True)["state_dict"]
        assert all(torch.equal(value, before[name]) for name, value in state.items())
