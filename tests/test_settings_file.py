"""Files of settings: JSON and YAML say the same, and what is wrong with a file is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from advcloak_jax.errors import UserError
from advcloak_jax.settings_file import read_settings

VALUES = {
    "learning_rate": 2e-8,
    "steps": 100,
    "lower": -0.5,
    "epochs": 1e3,
    "resume": True,
    "data": ["folder:faces", "synthetic:3x4"],
    "split": {"protected": 5, "protected_from": "*"},
    "run": "yes",
    "profile": "10:20",
    "margin_value": None,
}
YAML = """
learning_rate: 2e-8  # PyYAML alone takes this for text
steps: 100
lower: -.5
epochs: 1e+3
resume: true
data: [folder:faces, synthetic:3x4]
split:
  protected: 5
  protected_from: "*"
run: yes
profile: 10:20
margin_value: null
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def same(found: Any) -> bool:
    """Equal values of equal types."""
    return json.dumps(found) == json.dumps(VALUES)


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    assert same(read_settings(write(tmp_path / "s.json", json.dumps(VALUES)), "image"))
    assert same(read_settings(write(tmp_path / "s.yaml", YAML), "image"))
    assert same(read_settings(write(tmp_path / "s.yml", json.dumps(VALUES)), "image"))


def test_the_settings_of_a_run(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", json.dumps({"job": "image", "code": {}, "config": VALUES}))
    assert same(read_settings(path, "image"))
    with pytest.raises(UserError, match=r"config.json is of a run of `image`, not of `person`"):
        read_settings(path, "person")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("s.json", "{", "not readable as JSON"),
        ("s.yaml", "a: [1", "not readable as YAML"),
        ("s.yaml", "a: !!python/object/apply:os.system [true]", "not readable as YAML"),
        ("s.yaml", 9999 * "[" + 9999 * "]", "not readable as YAML"),
        ("s.json", "[1]", "must hold settings by name"),
        ("s.yaml", "", "must hold settings by name"),
        ("s.toml", "a = 1", r"must be a .json, .yaml or .yml file"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"{name}.*{said}"):
        read_settings(write(tmp_path / name, text), "image")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no file"):
        read_settings(tmp_path / "absent.json", "image")
