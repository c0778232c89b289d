"""`evaluate.py targets`: what is found, what is told of it, and that broken recognisers do not pass as working."""

import json
from pathlib import Path

import numpy as np
import pytest

from advcloak_jax.config import TargetsConfig
from advcloak_jax.errors import UserError
from advcloak_jax.jobs import list_targets


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of recognisers, good and bad, in the working directory."""
    (tmp_path / "some_recognisers.py").write_text(
        "import itertools\n"
        "import numpy as np\n"
        "calls = itertools.count()\n"
        "def good(images):\n    return images[:, ::16, ::16].reshape(len(images), -1) - 120.0\n"
        "def whitening(images):\n    return good(images) - (good(images).mean(0) if len(images) > 1 else 0)\n"
        "def constant(images):\n    return np.ones((len(images), 4))\n"
        "def moody(images):\n    return np.roll(good(images), next(calls), 1)\n"
        "def maps(images):\n    return images\n"
        "def failing(images):\n    return images['face']\n"
        "def ending(images):\n    raise SystemExit(0)\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 112, 112, 3), np.uint8)


def test_a_working_one_is_measured(functions: Path, faces: np.ndarray) -> None:
    entry = list_targets.check("python:some_recognisers:good,name=Good", faces)
    assert (entry.name, entry.kind, entry.embedding_size, entry.problem) == ("Good", "Python function", 147, "")
    assert entry.images_per_second > 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("whitening", "otherwise alone than among others"),
        ("constant", "every face the same embedding"),
        ("moody", "other embeddings each time"),
        ("maps", "should give embeddings"),
        ("none", "has no function none"),
        ("failing", "its code raised IndexError: only integers"),
        ("ending", "asked to end the process"),
    ],
)
def test_broken_ones_are_told(functions: Path, faces: np.ndarray, name: str, problem: str) -> None:
    assert problem in list_targets.check(f"python:some_recognisers:{name}", faces).problem


def test_table_and_files_then_an_error(functions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = ("python:some_recognisers:good", "python:some_recognisers:constant")
    with pytest.raises(UserError, match="1 of 2 recognisers cannot be used"):
        list_targets.run_targets(TargetsConfig(targets=specs, out="out"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("name")
    assert ["does not work" in line for line in lines[1:3]] == [False, True]
    stored = json.loads((functions / "out" / "targets.json").read_text())
    assert [bool(one["problem"]) for one in stored] == [False, True]
    assert (functions / "out" / "targets.csv").read_text().startswith("spec,name,kind")


def test_folders_are_looked_through(tmp_path: Path) -> None:
    for name, job in (("a/surrogate", "recognizer"), ("b", "import"), ("c", "image")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps({"job": job}))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "net.onnx").write_bytes(b"")
    found = list_targets.expand([str(tmp_path), "onnx:x.onnx"])
    assert found == [
        str(tmp_path / "a/surrogate"),
        str(tmp_path / "b"),
        f"onnx:{tmp_path / 'd' / 'net.onnx'}",
        "onnx:x.onnx",
    ]
    with pytest.raises(UserError, match="holds no recogniser's run"):
        list_targets.expand([str(_empty(tmp_path))])
    for nothing in ([], [""]):
        with pytest.raises(UserError, match="--targets names nothing"):
            list_targets.expand(nothing)
    with pytest.raises(UserError, match="is no folder"):
        list_targets.expand([str(tmp_path / "nothing")])


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"
