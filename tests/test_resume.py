"""Killed, stopped or left alone, a run ends with the same bytes. Real processes of `train.py` on a tiny set."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import quick_compilation

from advcloak_jax.training import speed
from advcloak_jax.training.checkpoint import read_checkpoint
from advcloak_jax.training.metrics import read_metrics

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).resolve().parents[1] / "train.py"
STEPS = 24
FACES = [
    *("--data", "synthetic:24x6", "--image-size", "32", "--split.protected", "3", "--split.n-inference", "2"),
    *("--split.n-test", "2", "--split.generator", "6", "--split.generator-images", "4", "--split.validation", "3"),
    *("--split.surrogate", "6"),
]
RHYTHM = ["--steps", str(STEPS), "--steps-per-dispatch", "1", "--log-every", "2", "--checkpoint-every", "4"]
RECOGNIZER = [
    *FACES,
    *RHYTHM,
    *("--architecture", "ir18", "--width", "0.05", "--embedding-size", "16", "--batch", "8"),
]
NETWORKS = ["--generator-width", "4", "--discriminator-width", "4", "--batch", "4"]
IMAGE = ["--surrogate", "recognizer", *NETWORKS, *RHYTHM]
PERSON = ["--generator", "image", "--warmup-epochs", "4", *RHYTHM]
PATIENCE = 300.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


def start(folder: Path, job: str, run: str, flags: list[str], before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    # One device; all runs share what is compiled.
    environment = {**os.environ, "XLA_FLAGS": quick_compilation.used()}
    command = [sys.executable, *before, str(PROGRAM), job, "--run", run, *flags]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for the end; standard error."""
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, errors
    return errors


def until(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.01)


def training(run: Path) -> bool:
    """Whether a checkpoint is there and metrics go beyond it."""
    checkpoints = [int(path.name) for path in run.glob("checkpoints/*") if path.name.isdigit()]
    if not checkpoints or not (run / "metrics.csv").exists():
        return False
    return max(int(row["step"]) for row in read_metrics(run)) > max(checkpoints)


def compare(first: Path, second: Path) -> None:
    """Every array of the last checkpoints byte for byte, and the rows of metrics.csv but for the speed."""
    (step, state), (other_step, other) = (read_checkpoint(run / "checkpoints", best=False) for run in (first, second))
    assert step == other_step == STEPS
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for (path, here), there in zip(jax.tree.leaves_with_path(state), jax.tree.leaves(other), strict=True):
        assert np.asarray(here).tobytes() == np.asarray(there).tobytes(), jax.tree_util.keystr(path)
    assert rows(first) == rows(second)
    assert (first / "result.json").exists()


def rows(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in speed.COLUMNS} for row in read_metrics(run)]


def kill(folder: Path, job: str, run: str, flags: list[str]) -> None:
    process = start(folder, job, run, flags)
    until(process, lambda: training(folder / run))
    process.kill()
    finish(process, -signal.SIGKILL)
    assert not (folder / run / "result.json").exists()


def stop(folder: Path, job: str, run: str, flags: list[str]) -> None:
    process = start(folder, job, run, flags)
    until(process, lambda: training(folder / run))
    process.terminate()
    errors = finish(process, 143)
    step, _ = read_checkpoint(folder / run / "checkpoints", best=False)
    assert 4 < step < STEPS
    assert f"Stopped by SIGTERM at step {step}" in errors


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> Path:
    finish(start(folder, "recognizer", "recognizer", RECOGNIZER))
    return folder / "recognizer"


@pytest.fixture(scope="module")
def image(folder: Path, recognizer: Path) -> Path:
    finish(start(folder, "image", "image", IMAGE))
    return folder / "image"


def test_recogniser_killed(folder: Path, recognizer: Path) -> None:
    kill(folder, "recognizer", "killed", RECOGNIZER)
    finish(start(folder, "recognizer", "killed", ["--resume"]))  # its folder alone says all
    compare(recognizer, folder / "killed")


def test_recogniser_stopped(folder: Path, recognizer: Path) -> None:
    stop(folder, "recognizer", "stopped", RECOGNIZER)
    finish(start(folder, "recognizer", "stopped", [*RECOGNIZER, "--resume"]))
    compare(recognizer, folder / "stopped")


def test_recogniser_killed_before_its_first_checkpoint(folder: Path, recognizer: Path) -> None:
    process = start(folder, "recognizer", "early", [*RECOGNIZER, "--resume"])
    until(process, (folder / "early" / "config.json").exists)
    process.kill()
    finish(process, -signal.SIGKILL)
    finish(start(folder, "recognizer", "early", [*RECOGNIZER, "--resume"]))
    compare(recognizer, folder / "early")


def test_recogniser_interrupted(folder: Path, recognizer: Path) -> None:
    # A shell's background jobs ignore Ctrl-C, and so would what they start.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    process = start(folder, "recognizer", "interrupted", RECOGNIZER, ("-c", heed, sys.executable))
    until(process, lambda: training(folder / "interrupted"))
    process.send_signal(signal.SIGINT)
    assert "Interrupted (training: --resume continues" in finish(process, 130).splitlines()[-1]
    finish(start(folder, "recognizer", "interrupted", ["--resume"]))
    compare(recognizer, folder / "interrupted")


def test_a_run_is_written_by_one_process_at_a_time(folder: Path, recognizer: Path) -> None:
    process = start(folder, "recognizer", "twice", RECOGNIZER)
    until(process, lambda: training(folder / "twice"))
    process.send_signal(signal.SIGSTOP)
    before = (folder / "twice" / "config.json").read_bytes()
    errors = finish(start(folder, "recognizer", "twice", ["--resume", "--keep", "5"]), 2)
    assert (folder / "twice" / "config.json").read_bytes() == before
    assert "twice is in use by another process" in last_line(errors)
    process.send_signal(signal.SIGCONT)
    finish(process)
    compare(recognizer, folder / "twice")


def test_what_cannot_be_resumed_is_said(folder: Path, recognizer: Path) -> None:
    before = (recognizer / "config.json").read_bytes()
    errors = finish(start(folder, "recognizer", "recognizer", RECOGNIZER), 2)
    assert "already holds a run" in last_line(errors)
    assert "--resume" in last_line(errors)
    errors = finish(start(folder, "recognizer", "recognizer", ["--resume"]))
    assert "is finished already" in errors
    assert (recognizer / "config.json").read_bytes() == before


def test_stage_one_killed(folder: Path, image: Path) -> None:
    kill(folder, "image", "image-killed", IMAGE)
    errors = finish(start(folder, "image", "image-killed", ["--learning-rate", "0.5", "--resume"]), 2)
    assert "--learning-rate 0.0001" in last_line(errors)
    finish(start(folder, "image", "image-killed", ["--resume"]))
    compare(image, folder / "image-killed")


def test_stage_one_stopped(folder: Path, image: Path) -> None:
    stop(folder, "image", "image-stopped", IMAGE)
    finish(start(folder, "image", "image-stopped", ["--resume"]))
    compare(image, folder / "image-stopped")


def test_stage_two_killed(folder: Path, image: Path) -> None:
    finish(start(folder, "person", "person", PERSON))
    kill(folder, "person", "person-killed", PERSON)
    finish(start(folder, "person", "person-killed", ["--resume"]))
    compare(folder / "person", folder / "person-killed")


def last_line(errors: str) -> str:
    line = errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    assert line.startswith("error: ")
    return line
