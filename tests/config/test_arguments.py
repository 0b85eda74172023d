"""Options held against constructors' hints."""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf
from tiny_runs import composed
from torch import Tensor, nn

from da_lightning.arguments import checked_arguments, option_hints
from da_lightning.config.build import build
from da_lightning.config.roles import roles_of_hint
from da_lightning.errors import UserError
from da_lightning.segmentation.source_only import SourceOnly


def train(
    lr: float,
    portion: float = 0.2,
    policy: Literal["global", "balanced"] = "global",
    size: tuple[int, int] = (1, 2),
    clip: float | None = None,
    weights: list[float] | None = None,
    flip: bool = False,
    name: str = "x",
    options: Mapping[str, Any] | None = None,
    colours: Mapping[str, Sequence[int]] | None = None,
    rounds: int = 1,
    network: nn.Module | None = None,
    untyped=None,
) -> None: ...


def refusal(function=train, **arguments) -> str:
    with pytest.raises(UserError) as caught:
        checked_arguments(function, arguments, "method")
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"lr": 1}, {"lr": 1.0}),
        ({"lr": "0.3"}, {"lr": 0.3}),
        ({"lr": 1e-3, "policy": "balanced"}, {"lr": 1e-3, "policy": "balanced"}),
        ({"lr": 0.1, "size": [32, 48]}, {"lr": 0.1, "size": (32, 48)}),
        ({"lr": 0.1, "clip": None, "weights": [1, 2.5]}, {"lr": 0.1, "clip": None, "weights": [1.0, 2.5]}),
        ({"lr": 0.1, "flip": True, "rounds": 2.0}, {"lr": 0.1, "flip": True, "rounds": 2}),
        ({"lr": 0.1, "options": {"betas": [1, 2]}}, {"lr": 0.1, "options": {"betas": [1, 2]}}),
        ({"lr": 0.1, "untyped": object}, {"lr": 0.1, "untyped": object}),
    ],
)
def test_what_fits_is_taken(given: dict, expected: dict) -> None:
    checked = checked_arguments(train, given, "method")
    assert checked == expected
    assert [type(value) for value in checked.values()] == [type(value) for value in expected.values()]


def test_objects_pass_as_they_are() -> None:
    network = nn.Linear(1, 1)
    assert checked_arguments(train, {"lr": 1, "network": network}, "method")["network"] is network
    assert "method.network" in refusal(lr=1, network="resnet")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"portoin": 1, "lr": 1}, ["method.portoin is not an option of train", "portion, policy"]),
        ({}, ["method.lr must be set"]),
        ({"lr": "fast"}, ["method.lr='fast'", "number"]),
        ({"lr": None}, ["method.lr=None", "number"]),
        ({"lr": 1, "policy": "local"}, ["method.policy='local'", "'global' or 'balanced'"]),
        ({"lr": 1, "size": [32]}, ["method.size"]),
        ({"lr": 1, "size": [32, "wide"]}, ["method.size.1='wide'", "integer"]),
        ({"lr": 1, "weights": [0.1, 0.2, "heavy"]}, ["method.weights.2='heavy'"]),
        ({"lr": 1, "rounds": 1.5}, ["method.rounds=1.5", "integer"]),
        ({"lr": 1, "flip": "perhaps"}, ["method.flip='perhaps'", "boolean"]),
        ({"lr": 1, "name": 3}, ["method.name=3", "string"]),
        ({"lr": 1, "options": [1]}, ["method.options=[1]", "dictionary"]),
        ({"lr": 1, "colours": {"road": ["red"]}}, ["method.colours", "'red'"]),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict, words: list[str]) -> None:
    message = refusal(**arguments)
    assert all(word in message for word in words), message


class OfOurs(SourceOnly):
    """As a reader of the documentation would write it."""

    def __init__(self, sharpness: float, **options: Any) -> None:
        super().__init__(**options)
        self.sharpness = sharpness


CLASSES = {"road": [1, 2, 3], "sky": [4, 5, 6]}
PLAIN = {
    "classes": CLASSES,
    "network": {"_target_": "da_lightning.segmentation.networks.LightNet"},
    "optimizer": {"name": "SGD", "lr": 1.0},
    "max_iters": 1,
}


def test_options_of_the_base_classes_count() -> None:
    given = checked_arguments(OfOurs, {**PLAIN, "sharpness": 1, "seed": 3, "horizon": None, "clip_norm": 2}, "method")
    assert (given["sharpness"], given["seed"], given["clip_norm"]) == (1.0, 3, 2.0)
    assert OfOurs(**given).seed == 3
    assert "method.accumulate='x'" in refusal(OfOurs, **PLAIN, sharpness=1, accumulate="x")
    assert "method.sharpnes is not an option of OfOurs" in refusal(OfOurs, **PLAIN, sharpness=1, sharpnes=2)
    without = {key: value for key, value in PLAIN.items() if key != "max_iters"}
    assert refusal(OfOurs, **without).startswith("method.max_iters, method.sharpness must be set")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Somebody's methods, two levels below one of ours, in a package that is trusted."""
    (tmp_path / "their_methods.py").write_text(
        "from typing import Any\n"
        "from torch import nn\n"
        "from da_lightning.segmentation.source_only import SourceOnly\n\n"
        "class Mid(SourceOnly):\n"
        "    def __init__(self, sharpness: float, extra: nn.Module | None = None, **options: Any) -> None:\n"
        "        super().__init__(**options)\n"
        "        self.sharpness, self.extra = sharpness, extra\n\n"
        "class Leaf(Mid):\n"
        "    def __init__(self, blur: int = 1, **options: Any) -> None:\n"
        "        super().__init__(**options)\n"
        "        self.blur = blur\n\n"
        "class Closed(Mid):\n"
        "    def __init__(self, max_iters: int) -> None:\n"
        "        super().__init__(sharpness=1.0, max_iters=max_iters)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "their_methods")
    yield "their_methods"
    sys.modules.pop("their_methods", None)


def test_options_of_somebody_elses_base_class_count_too(package: str) -> None:
    leaf = importlib.import_module(package).Leaf
    given = checked_arguments(leaf, {**PLAIN, "blur": "2", "sharpness": 1, "seed": 3}, "method")
    assert (given["blur"], given["sharpness"], given["seed"]) == (2, 1.0, 3)
    assert "method.sharpness='x'" in refusal(leaf, **PLAIN, sharpness="x")
    assert "method.accumulate='x'" in refusal(leaf, **PLAIN, sharpness=1, accumulate="x")
    assert "method.sharpnes is not an option of Leaf" in refusal(leaf, **PLAIN, sharpness=1, sharpnes=2)
    assert "method.sharpness must be set" in refusal(leaf, **PLAIN)


def test_what_takes_no_further_options_gets_none_of_its_base_class(package: str) -> None:
    closed = importlib.import_module(package).Closed
    assert "method.sharpness is not an option of Closed" in refusal(closed, max_iters=1, sharpness=1)


def test_what_an_option_of_somebody_elses_base_class_is_built_from_is_known(package: str) -> None:
    assert roles_of_hint(option_hints(importlib.import_module(package).Leaf)["extra"]) == (nn.Module,)
    extra = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1}
    node = {"_target_": f"{package}.Leaf", **PLAIN, "sharpness": 0.5, "blur": 3, "extra": extra}
    method = build(OmegaConf.create(node), "method")
    assert (method.sharpness, method.blur, type(method.extra)) == (0.5, 3, nn.Linear)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("munit", {"lr_step": 0}),
        ("unit", {"shared_layers": -1}),
        ("munit", {"discriminator_scales": 0}),
        ("stargan", {"critic_steps": 0}),
        ("cyclegan", {"pool_size": -1}),
        ("ecn", {"neighbours": -1}),
        ("ecn", {"exemplar_weight": 1.5}),
        ("reid_source_only", {"stripes": 0}),
        ("cbst", {"iters_per_round": 0}),
    ],
)
def test_numbers_out_of_range_are_refused(method: str, options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(UserError, match=rf"^method\.{name}={value} "):
        build(composed(f"method={method}", f"method.{name}={value}").method, "method")


def test_what_other_packages_do_with_further_options_is_not_known() -> None:
    class Theirs:
        def __init__(self, needed: int) -> None: ...

    class Wrapper(Theirs):
        def __init__(self, folder: str, **options: Any) -> None:
            super().__init__(needed=1)

    assert checked_arguments(Wrapper, {"folder": "x", "anything": 1}, "logger") == {"folder": "x", "anything": 1}
    assert "logger.folder=1" in str(pytest.raises(UserError, checked_arguments, Wrapper, {"folder": 1}, "logger").value)


def test_classes_of_torch_are_checked_too() -> None:
    assert checked_arguments(nn.Linear, {"in_features": 2, "out_features": "3"}, "head")["out_features"] == 3
    assert "head.out_features must be set" in refusal(nn.Linear, in_features=2).replace("method", "head")


def test_hints_that_only_a_type_checker_resolves_are_left_alone() -> None:
    def function(tensor: "Tensor", unknown: "Nowhere" = 1) -> None: ...  # noqa: F821

    assert checked_arguments(function, {"tensor": "anything"}, "x") == {"tensor": "anything"}
