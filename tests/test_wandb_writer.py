"""What is sent to Weights & Biases, to a stand-in for its package."""

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advcloak_jax import commands
from advcloak_jax.config import ImageConfig
from advcloak_jax.errors import UserError
from advcloak_jax.training.metrics import open_writer, read_metrics
from advcloak_jax.training.runs import start_run


class Sent:
    """Everything that was sent."""

    def __init__(self) -> None:
        self.inits: list[dict[str, Any]] = []
        self.logs: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **settings: Any) -> "Sent":
        self.inits.append(settings)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logs.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    found = Sent()
    module = types.SimpleNamespace(init=found.init, Image=lambda pixels: ("image", pixels.shape))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return found


def test_rows_and_samples_go_there_too(tmp_path: Path, sent: Sent) -> None:
    run = start_run("image", ImageConfig(run=str(tmp_path / "mine"), wandb="cloaks", seed=5))
    for step in (0, 4):
        writer = open_writer(run, ("loss",), step)
        writer.write(step + 2, {"loss": 0.5})
        writer.picture(step + 2, "sample", np.zeros((2, 3, 3), np.uint8))
        writer.close()
    assert sent.logs[:2] == [(2, {"loss": 0.5}), (2, {"sample": ("image", (2, 3, 3))})]
    assert [row["step"] for row in read_metrics(run.folder)] == ["2", "6"]
    first, second = sent.inits
    assert (first["project"], first["name"], first["config"]["seed"]) == ("cloaks", "mine", 5)
    assert first["id"] == second["id"] == json.loads((run.folder / "wandb.json").read_text())["id"]
    assert sent.finished == 2


def test_without_the_flag_nothing_is_sent(tmp_path: Path, sent: Sent) -> None:
    open_writer(start_run("image", ImageConfig(run=str(tmp_path / "mine"))), ("loss",), 0).close()
    assert sent.inits == []


def test_a_missing_package_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--wandb needs wandb: pip install -r requirements-wandb.txt"):
        commands.train(["recognizer", "--data", "synthetic:9x2", "--run", str(tmp_path / "r"), "--wandb", "cloaks"])
    assert not (tmp_path / "r").exists()
