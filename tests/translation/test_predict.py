"""``python -m da_lightning.predict`` and what it leaves behind."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import METHODS, composed
from tiny_translators import Tint
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_image

import da_lightning
from da_lightning.arguments import checked_words
from da_lightning.config.build import build
from da_lightning.data.images import read_image
from da_lightning.errors import CheckpointError, DataError, UserError
from da_lightning.predict import load_method, main, predict
from da_lightning.segmentation.datasets import CamVid, ImageLabelFolder
from da_lightning.training.module import AdaptationModule
from da_lightning.translation.module import reflected
from da_lightning.translation.predict import Translate

TRANSLATORS = [m for m in METHODS if composed(f"method={m}").method._target_.split(".")[1] == "translation"]
SMALL = {"width": 8, "discriminator_width": 8, "classifier_width": 8, "residuals": 1, "max_iters": 1}


def saved(module: AdaptationModule, file: Path) -> str:
    """A checkpoint as Lightning writes it, without a training."""
    content: dict[str, Any] = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(content)
    torch.save(content, file)
    return str(file)


@pytest.fixture
def tint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Checkpoints of the tiny translator."""
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "tiny_translators")
    return lambda **options: saved(Tint(**options), tmp_path / "tint.ckpt")


def paint(file: Path, size: tuple[int, int] = (10, 7), seed: int = 0) -> Path:
    """Random colours of ``size`` (width, height)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def write_ids(file: Path, size: tuple[int, int] = (10, 7)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(1).randint(0, 11, size[::-1], np.uint8)).save(file)
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of three sizes, one of them turned by its EXIF orientation."""
    folder = tmp_path / "photos"
    for number, size in enumerate([(10, 7), (9, 9), (10, 7), (10, 7)]):
        paint(folder / f"{number}.png", size, number)
    turned = Image.open(paint(folder / "deep" / "turned.jpg", (7, 10), 9))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "deep" / "turned.jpg", exif=exif)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def pictures(folder: Path) -> dict[str, Tensor]:
    return {name: decode_image(str(folder / name), ImageReadMode.RGB) for name in names(folder)}


def translated(image: Tensor, to: str = "target", tint: Tensor | float = 0.0) -> Tensor:
    """What `Tint` makes of an image, as a PNG holds it."""
    result = 0.5 * (image / 127.5 - 1) + (0.2 if to == "target" else -0.2) + tint
    return ((result + 1) * 127.5).round().clamp(0, 255).byte()


def close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and (one.int() - other.int()).abs().max().item() <= 1


# -- translation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["target", "source"])
def test_images_of_any_size_are_translated_under_their_names(tint, photos: Path, tmp_path: Path, to: str) -> None:
    predict(tint(gain=0.5), str(photos), str(tmp_path / "out"), to=to, batch_size=2)
    results = pictures(tmp_path / "out")
    assert list(results) == ["0.png", "1.png", "2.png", "3.png", "deep/turned.png"]
    for name, result in results.items():
        original = photos / name if (photos / name).exists() else photos / "deep" / "turned.jpg"
        assert close(result, translated(read_image(original), to))


def test_values_are_clamped_not_stretched(tint, tmp_path: Path) -> None:
    grey = tmp_path / "grey.png"
    Image.fromarray(np.stack([np.full((8, 8), v, np.uint8) for v in (100, 128, 200)], -1)).save(grey)
    predict(tint(gain=4.0), str(grey), str(tmp_path / "out"))
    pixel = decode_image(str(tmp_path / "out" / "grey.png"))[:, 0, 0].tolist()
    assert pixel == [43, 155, 255]  # 4 (v - 127.5) + 127.5 + 25.5


def test_styles_are_as_many_and_do_not_depend_on_the_batch(tint, photos: Path, tmp_path: Path) -> None:
    checkpoint = tint(style_dim=3)
    for number, batch_size in enumerate((1, 4)):
        predict(checkpoint, str(photos), str(tmp_path / f"out{number}"), styles=2, batch_size=batch_size)
    one, other = pictures(tmp_path / "out0"), pictures(tmp_path / "out1")
    assert list(one)[:3] == ["0_style1.png", "0_style2.png", "1_style1.png"]
    assert len(one) == 10
    assert all(close(one[name], other[name]) for name in one)
    means = torch.stack([one[f"{n}_style{s}.png"].float().mean((1, 2)) for n in range(4) for s in (1, 2)])
    assert len(means.round().unique(dim=0)) == 8
    predict(checkpoint, str(photos), str(tmp_path / "again"), styles=2, seed=1)
    assert not close(pictures(tmp_path / "again")["0_style1.png"], one["0_style1.png"])


def test_the_same_styles_on_request(tint, photos: Path, tmp_path: Path) -> None:
    predict(tint(style_dim=3, gain=0.0), str(photos), str(tmp_path / "out"), styles=2, same_styles=True)
    results = pictures(tmp_path / "out")
    colours = [{tuple(results[f"{n}_style{s}.png"][:, 0, 0].tolist()) for n in range(4)} for s in (1, 2)]
    assert [len(found) for found in colours] == [1, 1]
    assert colours[0] != colours[1]


def test_styles_of_images(tint, photos: Path, tmp_path: Path) -> None:
    red, blue = (tmp_path / f"{name}.png" for name in ("red", "blue"))
    Image.new("RGB", (5, 6), (255, 127, 127)).save(red)
    Image.new("RGB", (8, 3), (127, 127, 255)).save(blue)
    checkpoint, out = tint(style_dim=3, gain=0.0), tmp_path / "out"
    for number, given in enumerate([str(red), f"{red},{blue}"]):
        predict(checkpoint, str(photos / "0.png"), f"{out}{number}", style_image=given)
    assert names(tmp_path / "out0") == ["0.png"]
    results = [*pictures(tmp_path / "out0").values(), *pictures(tmp_path / "out1").values()]
    wanted = [[255, 153, 153], [255, 153, 153], [153, 153, 255]]
    assert all(np.allclose(r[:, 0, 0].tolist(), w, atol=2) for r, w in zip(results, wanted, strict=True))
    # From red to blue, in even steps.
    predict(checkpoint, str(photos / "0.png"), f"{out}2", style_image=f"{red},{blue}", interpolate=5)
    strip = pictures(tmp_path / "out2")["0.png"]
    assert strip.shape == (3, 7, 50)
    assert np.allclose(strip[2, 0, ::10].tolist(), np.linspace(153, 255, 5), atol=26)
    assert strip[2, 0, ::10].diff().min() >= 0


def test_an_animation_goes_there_and_back(tint, photos: Path, tmp_path: Path) -> None:
    predict(tint(style_dim=3), str(photos / "1.png"), str(tmp_path / "out"), interpolate=4, gif=True)
    with Image.open(tmp_path / "out" / "1.gif") as animation:
        assert (animation.n_frames, animation.size, animation.info["loop"]) == (6, (9, 9), 0)


def test_the_shorter_side_is_resized(tint, photos: Path, tmp_path: Path) -> None:
    predict(tint(), str(photos / "0.png"), str(tmp_path / "out"), image_size=14)
    assert pictures(tmp_path / "out")["0.png"].shape == (3, 14, 20)


@pytest.mark.parametrize("method", TRANSLATORS)
def test_every_method_translates_from_its_checkpoint(method: str, tmp_path: Path) -> None:
    cfg = composed(f"method={method}")
    for name, value in SMALL.items():
        if name in cfg.method:
            cfg.method[name] = value
    module = build(cfg.method, "method").eval()
    options = {"styles": 2, "same_styles": True} if module.style_dim else {}
    images = [paint(tmp_path / "in" / f"{n}.png", (70, 45), n) for n in range(2)]
    torch.manual_seed(3)
    predict(saved(module, tmp_path / "last.ckpt"), str(tmp_path / "in"), str(tmp_path / "out"), **options)
    results = pictures(tmp_path / "out")
    assert len(results) == len(images) * (2 if module.style_dim else 1)
    assert {tuple(result.shape) for result in results.values()} == {(3, 45, 70)}
    if not module.style_dim:
        with torch.no_grad():
            wanted = module.translate(read_image(images[0])[None] / 127.5 - 1, "target")[0]
        assert close(results["0.png"], ((wanted + 1) * 127.5).round().clamp(0, 255).byte())


@pytest.mark.parametrize("method", TRANSLATORS)
def test_small_and_narrow_images_are_translated_too(method: str) -> None:
    cfg = composed(f"method={method}")
    for name, value in SMALL.items():
        if name in cfg.method:
            cfg.method[name] = value
    module = build(cfg.method, "method").eval()
    for size in ((1, 1), (2, 40), (50, 3)):
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            assert module.translate(image, "target").isfinite().all()
            assert module.round_trip(image, "source").shape == image.shape


@pytest.mark.parametrize(("height", "width"), [(8, 12), (20, 12), (7, 31)])
def test_images_are_reflected_as_far_as_it_takes(height: int, width: int) -> None:
    image = torch.rand(2, 3, 7, 12)
    wanted = np.pad(image.numpy(), ((0, 0), (0, 0), (0, height - 7), (0, width - 12)), mode="reflect")
    assert np.array_equal(reflected(image, height, width).numpy(), wanted)


def test_random_styles_are_joined_along_the_sphere() -> None:
    codes = Translate(interpolate=5, seed=1)._codes(Tint(style_dim=3), 1)
    assert codes is not None
    lengths, steps = codes[0].norm(dim=1), F.normalize(codes[0], dim=1)
    assert lengths.min() >= min(lengths[0], lengths[-1]) - 1e-5
    cosines = (steps[1:] * steps[:-1]).sum(1)
    ends = F.cosine_similarity(codes[0, 0], codes[0, -1], dim=0)
    assert cosines.min() > ends
    torch.testing.assert_close(codes[0, [0, -1]], torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))


def test_several_domains_are_told_by_number(photos: Path, tmp_path: Path) -> None:
    cfg = composed("method=stargan", "method.num_domains=4")
    cfg.method.update({name: value for name, value in SMALL.items() if name in cfg.method})
    module = build(cfg.method, "method").eval()
    checkpoint = saved(module, tmp_path / "last.ckpt")
    predict(checkpoint, str(photos / "1.png"), str(tmp_path / "out"), to=3)
    with torch.no_grad():
        wanted = module.translate(read_image(photos / "1.png")[None] / 127.5 - 1, 3)[0]
    assert close(pictures(tmp_path / "out")["1.png"], ((wanted + 1) * 127.5).round().clamp(0, 255).byte())
    with pytest.raises(UserError, match="to=4 is none of the 4 domains"):
        predict(checkpoint, str(photos), str(tmp_path / "out2"), to=4)


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three labelled images in the layout of a list file, which leaves out one."""
    root = tmp_path / "camvid"
    for name in ("a", "b", "c"):
        paint(root / "train" / f"{name}.jpg")
        write_ids(root / "trainannot" / f"{name}.png")
    lines = [f"train/{name}.jpg trainannot/{name}.png" for name in ("c", "a")]
    (root / "lists").mkdir()
    (root / "lists" / "day.txt").write_text("\n".join(lines))
    return root


def test_a_listed_set_becomes_one_of_the_same_layout(tint, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "dusky"
    predict(tint(), str(labelled), str(out), list_file="lists/day.txt")
    assert names(out) == ["lists/day.txt", "train/a.png", "train/c.png", "trainannot/a.png", "trainannot/c.png"]
    before, after = (CamVid(root, "lists/day.txt") for root in (labelled, out))
    for index in range(2):
        assert before.name(index) == after.name(index)
        assert torch.equal(before[index]["label"], after[index]["label"])
        assert close(after[index]["image"], translated(before[index]["image"]))
    assert (out / "trainannot" / "a.png").read_bytes() == (labelled / "trainannot" / "a.png").read_bytes()


@pytest.mark.parametrize("form", ["both folders", "labels"])
def test_folders_of_images_and_labels_become_such_folders(tint, tmp_path: Path, form: str) -> None:
    root, out = tmp_path / "set", tmp_path / "out"
    for name in ("x", "deep/y"):
        paint(root / "images" / f"{name}.jpg")
        write_ids(root / "labels" / f"{name}.png")
    write_ids(root / "labels" / "of_no_image.png")
    if form == "labels":
        predict(tint(), str(root / "images"), str(out), labels=str(root / "labels"))
    else:
        predict(tint(), str(root), str(out))
    assert [ImageLabelFolder(out, 11).name(index) for index in range(2)] == ["deep/y", "x"]
    assert [(out / name).read_bytes() for name in ("labels/deep/y.png", "labels/x.png")] == [
        (root / name).read_bytes() for name in ("labels/deep/y.png", "labels/x.png")
    ]


def test_labels_follow_each_style_and_the_size_of_their_images(tint, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(tint(style_dim=3), str(labelled), str(out), list_file="lists/day.txt", styles=2, image_size=14)
    dataset = CamVid(out, "lists/day.txt")
    assert [dataset.name(index) for index in range(4)] == [f"train/{n}_style{s}" for n in "ca" for s in (1, 2)]
    label = np.array(Image.open(labelled / "trainannot" / "c.png")).repeat(2, 0).repeat(2, 1)
    assert dataset[1]["image"].shape == (3, 14, 20)
    assert np.array_equal(np.array(Image.open(out / "trainannot" / "c_style2.png")), label)


def test_palettes_and_16_bits_outlast_resizing(tint, tmp_path: Path) -> None:
    root = tmp_path / "set"
    ids = np.random.RandomState(0).randint(0, 200, (7, 10), np.uint8)
    palette = Image.fromarray(ids).convert("P")
    palette.putdata(ids.flatten().tolist())
    palette.putpalette(bytes(range(256)) * 3)
    wide = Image.fromarray(ids.astype(np.uint16) * 300)
    for name, label in (("palette", palette), ("wide", wide)):
        paint(root / "images" / f"{name}.png")
        (root / "labels").mkdir(exist_ok=True)
        label.save(root / "labels" / f"{name}.png")
    predict(tint(), str(root), str(tmp_path / "out"), image_size=14)
    for name, wanted, mode in (("palette", ids, "P"), ("wide", ids.astype(np.uint16) * 300, "I;16")):
        with Image.open(tmp_path / "out" / "labels" / f"{name}.png") as label:
            assert label.mode == mode
            assert np.array_equal(np.array(label), wanted.repeat(2, 0).repeat(2, 1))
    paint(root / "labels" / "wide.png")
    with pytest.raises(DataError, match=r"wide\.png has mode RGB"):
        predict(tint(), str(root), str(tmp_path / "out2"), image_size=14)


# -- segmentation ------------------------------------------------------------------------------------------------------


def test_segmentation_writes_ids_and_overlays(photos: Path, tmp_path: Path) -> None:
    cfg = composed("method=segmentation_source_only", "network@method.network=light", "method.network.width=8")
    module = build(cfg.method, "method").eval()
    predict(saved(module, tmp_path / "last.ckpt"), str(photos), str(tmp_path / "out"), batch_size=3)
    assert names(tmp_path / "out" / "overlays") == names(tmp_path / "out" / "labels")
    image, label = read_image(photos / "2.png"), decode_image(str(tmp_path / "out" / "labels" / "2.png"))
    with torch.no_grad():
        wanted = module(image[None] / 255).argmax(1)
    assert (label == wanted).float().mean() > 0.95
    overlay = decode_image(str(tmp_path / "out" / "overlays" / "2.png"))
    assert torch.equal(overlay, ((image.float() + module.coloured(label[0])) / 2).byte())


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"styles": 2}, "Tint knows no styles"),
        ({"interpolate": 4}, "Tint knows no styles"),
        ({"batch_size": 0}, "batch_size=0 was refused: input should be"),
        ({"stlyes": 2}, "predict.stlyes is not an option of Translate"),
        ({"to": "dusk"}, "predict.to='dusk' was refused"),
    ],
)
def test_options_that_do_not_fit(tint, photos: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        predict(tint(), str(photos), str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"styles": 0}, "styles=0 was refused: input should be"),
        ({"styles": 2, "interpolate": 3}, "leave it out"),
        ({"gif": True}, "set interpolate"),
        ({"interpolate": 1}, "interpolate=1 was refused: input should be"),
        ({"interpolate": 3, "style_image": "photos/0.png"}, "style_image names 1: name two"),
        ({"style_image": "nowhere.png"}, "nowhere.png, which does not exist"),
        ({"interpolate": 3, "list_file": "list.txt"}, "cannot have the labels"),
    ],
)
def test_options_of_styles_that_do_not_fit(
    tint, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (photos / "list.txt").write_text("0.png 1.png")
    with pytest.raises(UserError, match=message):
        predict(tint(style_dim=3), "photos", "out", **options)
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_fit(tint, photos: Path, labelled: Path, tmp_path: Path) -> None:
    checkpoint, out = tint(), str(tmp_path / "out")
    (empty := tmp_path / "empty").mkdir()
    for source, message in ((empty, "which has none"), (tmp_path / "nowhere", "which does not exist")):
        with pytest.raises(DataError, match=message):
            predict(checkpoint, str(source), out)
    for line, message in (
        ("../photos/0.png", "names ../photos/0.png, which is no file in"),
        ("/etc/hostname", "names /etc/hostname, which is no file in"),
        ("train/a.jpg trainannot/z.png", "names trainannot/z.png, which is no file in"),
        ("train/a.jpg\ntrain/a.jpg", "a second time"),
    ):
        (labelled / "list.txt").write_text(line)
        with pytest.raises(DataError, match=message):
            predict(checkpoint, str(labelled), out, list_file="list.txt")
    (photos / "torn.png").write_bytes((photos / "0.png").read_bytes()[:20])
    with pytest.raises(DataError, match=r"torn\.png cannot be read as an image"):
        predict(checkpoint, str(photos), out)
    (photos / "torn.png").unlink()
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(photos / "zz.png")
    with pytest.raises(DataError, match=r"zz\.png has mode I;16, not 8 bits"):
        predict(checkpoint, str(photos), out)
    write_ids(labelled / "trainannot" / "a.png", (7, 10))
    with pytest.raises(DataError, match=r"a\.png.*7x10.*a\.jpg.*10x7"):
        predict(checkpoint, str(labelled), out, list_file="lists/day.txt")
    assert not Path(out).exists()


def test_nothing_is_written_over_unasked_and_the_input_never(tint, photos: Path, tmp_path: Path) -> None:
    checkpoint, before = tint(), {file: file.read_bytes() for file in photos.rglob("*.png")}
    out = paint(tmp_path / "out" / "kept.png").parent
    with pytest.raises(UserError, match=r"overwrite=true"):
        predict(checkpoint, str(photos), str(out))
    predict(checkpoint, str(photos), str(out), overwrite=True)
    assert len(names(out)) == 6
    for folder in (photos, photos.parent, photos / "deep", photos / "new"):
        with pytest.raises(UserError, match="choose a folder elsewhere"):
            predict(checkpoint, str(photos), str(folder), overwrite=True)
    with pytest.raises(UserError, match="choose a folder elsewhere"):
        predict(checkpoint, str(photos / "0.png"), str(photos), overwrite=True)
    assert {file: file.read_bytes() for file in photos.rglob("*.png")} == before


def test_a_list_from_elsewhere_is_copied_not_written_over(tint, labelled: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("train/b.jpg")
    predict(tint(), str(labelled), str(tmp_path / "out"), list_file=str(mine))
    assert mine.read_text() == "train/b.jpg"
    assert (tmp_path / "out" / "mine.txt").read_text() == "train/b.png\n"


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_method_is_rebuilt_without_what_its_training_began_from(tint) -> None:
    module = load_method(tint(style_dim=2, init_from="gone.pt"))
    assert isinstance(module, Tint)
    assert (module.style_dim, module.hparams["init_from"]) == (2, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gen_a": 1}, "does not say which method it is of .it holds gen_a."),
        ({"method": "os.system"}, "os.system, is os.system, outside the trusted packages"),
        ({"method": "da_lightning.translation.module.AdversarialModule.nothing"}, "cannot be imported"),
        ({"method": "da_lightning.errors.UserError"}, "but a method is wanted there"),
        ({"method": ["os.system"]}, "does not say which method it is of"),
        ({"hyper_parameters": {"gone": 1}}, "method.gone is not an option of Tint"),
        ({"state_dict": {"mix.bias": torch.zeros(3)}}, "does not fit tiny_translators.Tint any more"),
    ],
)
def test_foreign_checkpoints(tint, tmp_path: Path, content: dict[str, Any], message: str) -> None:
    whole = torch.load(tint(), weights_only=True) if "gen_a" not in content else {}
    torch.save(whole | content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=message) as caught:
        load_method(tmp_path / "other.ckpt")
    assert "\n" not in str(caught.value)


def test_a_missing_checkpoint(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.ckpt"):
        predict("nowhere.ckpt", str(photos), str(tmp_path / "out"))


# -- command line ------------------------------------------------------------------------------------------------------


def test_words_become_options() -> None:
    words = [
        "checkpoint=runs/epoch=3.ckpt",
        "input=a,b (c)",
        "output=0001",
        "overwrite=true",
        "styles=3",
        "labels=null",
    ]
    assert checked_words(predict, words, "predict") == {
        "checkpoint": "runs/epoch=3.ckpt",
        "input": "a,b (c)",
        "output": "0001",
        "overwrite": True,
        "styles": "3",
        "labels": None,
    }
    with pytest.raises(UserError, match="'--styles' is no option: write name=value"):
        checked_words(predict, [*words, "--styles"], "predict")
    with pytest.raises(UserError, match=r"predict\.input, predict\.output must be set"):
        checked_words(predict, words[:1], "predict")


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """How long it takes is in ``benchmarks.start_up``."""
    run = [sys.executable, "-X", "importtime", "-m", "da_lightning.predict", "--help"]
    environment = {"PYTHONPATH": str(Path(da_lightning.__file__).parents[1])}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "import time:" in done.stderr
    assert "style_image=" in done.stdout
    assert not any(word in done.stderr for word in ("torch", "lightning.pytorch", "hydra"))


def test_a_mistake_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["predict", "checkpoint=gone.ckpt", "input=.", "output=out"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert str(caught.value.code).startswith("error: ") and "gone.ckpt" in str(caught.value.code)


def test_a_translation_never_goes_where_a_label_does(tint, tmp_path: Path) -> None:
    root = tmp_path / "set"
    paint(root / "0.jpg")
    write_ids(root / "0.png")
    (root / "list.txt").write_text("0.jpg 0.png\n")
    with pytest.raises(UserError, match=r"\b0\.png"):
        predict(tint(), str(root), str(tmp_path / "out"), list_file="list.txt")
    assert not list((tmp_path / "out").rglob("*.*"))


def test_labels_that_cannot_be_resized_are_told_before_anything_is_written(tint, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in "ab":
        paint(root / "images" / f"{name}.png")
    write_ids(root / "labels" / "a.png")
    paint(root / "labels" / "b.png")
    with pytest.raises(DataError, match="mode RGB, not one channel of ids"):
        predict(tint(), str(root), str(tmp_path / "out"), image_size=14)
    assert not list((tmp_path / "out").rglob("*.png"))
