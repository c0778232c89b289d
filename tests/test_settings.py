"""Settings to JSON and back, and what is refused on the way."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from advcloak_jax import settings
from advcloak_jax.config import ImageConfig, PersonConfig, RecognizerConfig, SplitConfig, TableConfig, VerifyConfig
from advcloak_jax.errors import UserError

KINDS = (RecognizerConfig, ImageConfig, PersonConfig, TableConfig, VerifyConfig)


def through_json(config: Any) -> Any:
    return settings.from_dict(type(config), json.loads(json.dumps(settings.to_dict(config))), "config.json")


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_survive(kind: type) -> None:
    assert through_json(kind()) == kind()


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_survives_another_value(kind: type) -> None:
    """Each field alone is changed, so that none can be left out of the JSON."""
    for field in dataclasses.fields(kind):
        start = kind(**NEEDED.get(field.name, {}))
        value = another(getattr(start, field.name), field.name)
        changed = dataclasses.replace(start, **{field.name: value})
        if field.name in settings.NOT_STORED:
            assert changed != start
            assert settings.to_dict(changed) == settings.to_dict(start)
        else:
            assert through_json(changed) == changed != start


SHARED = {"coordinator": "node:1234", "processes": 4, "process_id": 2}
NEEDED: dict[str, dict[str, Any]] = {
    "pairs_root": {"pairs": "lfw.bin"},
    "surrogates": {"methods": ("fi-uap",)},
    **dict.fromkeys(SHARED, SHARED),
}
"""Fields that mean nothing without another one."""
LITERALS = {
    "masks": "image",
    "projection_solver": "kernel",
    "mirror": "yes",
    "classifier": "sharded",
    "sampling": "balanced",
    "on_bad_image": "skip",
    "on_nan": "skip",
    "distributed": "auto",
    "feed": "sharded",
    "coordinator": "other:1234",
    "dtype": "bfloat16",
    "parallel": "shard_map",
    "preset": "demo",
    "remat": "blocks",
    "profile": "3:9",
    "part": "target",
    "margin": "cosface",
    "schedule": "cosine",
    "subspace": "plain",
    "distance": "euclidean",
}


def another(value: Any, name: str) -> Any:
    if name in LITERALS:
        return LITERALS[name]
    if name in ("beta1", "beta2", "dropout", "momentum", "margin_value", "adaface_rate"):
        return 0.25
    if name in ("log_every", "checkpoint_every", "image_size"):
        return value * 2
    if name == "steps_per_dispatch":
        return 5
    if name == "lower":
        return -0.5
    if name == "sweep_index":
        return 3
    if isinstance(value, bool):
        return not value
    if isinstance(value, SplitConfig):
        return dataclasses.replace(value, protected=7, protected_from="a/*")
    if isinstance(value, tuple):
        return ("folder:x", "folder:y")
    return value + "x" if isinstance(value, str) else value + 1


def test_what_a_value_leaves_out_is_the_bases() -> None:
    base = ImageConfig(seed=5, split=SplitConfig(protected=7, generator=9))
    found = settings.from_dict(ImageConfig, {"steps": 3, "split": {"generator": 11}}, "file", base)
    assert found == dataclasses.replace(base, steps=3, split=SplitConfig(protected=7, generator=11))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "3", 3),
        ("learning_rate", "1e-8", 1e-8),
        ("resume", "true", True),
        ("sweep_index", "none", None),
        ("run", "3", "3"),
        ("dtype", "bfloat16", "bfloat16"),
        ("data", "folder:a", ["folder:a"]),
        ("split.protected", "4", {"protected": 4}),
        ("steps", "many", "many"),
        ("lerning_rate", "1", 1),
    ],
)
def test_text_becomes_what_json_has(name: str, text: str, value: Any) -> None:
    found = settings.from_text(ImageConfig, name, text)
    assert (found, type(found)) == (value, type(value))


def test_initials_are_understood() -> None:
    with pytest.raises(UserError, match=r"'lr'.*'learning_rate'"):
        settings.from_dict(ImageConfig, {"lr": 1.0}, "file")


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"run/config.json has an unknown setting 'learningrate'.*'learning_rate'"):
        settings.from_dict(ImageConfig, {"learningrate": 1.0}, "run/config.json")
    with pytest.raises(UserError, match=r"split has an unknown setting 'protect'.*'protected'"):
        settings.from_dict(ImageConfig, {"split": {"protect": 1}}, "config.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 1.5),
        ("steps", "3"),
        ("steps", True),
        ("steps", None),
        ("learning_rate", "fast"),
        ("learning_rate", True),
        ("run", 3),
        ("resume", 1),
        ("data", "folder:x"),
        ("data", [1]),
        ("split", 4),
        ("split", {"protected": "many"}),
        ("dtype", "float16"),
        ("dtype", ["float32"]),
    ],
)
def test_an_ill_typed_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"config.json: {name}\b.*must be"):
        settings.from_dict(ImageConfig, {name: value}, "config.json")


def test_an_int_does_for_a_float_and_becomes_one() -> None:
    found = settings.from_dict(ImageConfig, {"epochs": 3}, "config.json")
    assert type(found.epochs) is float


def test_a_value_out_of_range_names_its_flag() -> None:
    with pytest.raises(UserError, match="--beta1"):
        settings.from_dict(ImageConfig, {"beta1": 1.0}, "config.json")


def test_read_json_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match=r"config.json is missing"):
        settings.read_json(path)
    for content in (b"{", b"\xff\xfe", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not readable as JSON"):
            settings.read_json(path)
