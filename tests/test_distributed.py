"""Two processes do what one does with the same global batch; lost ones, late ones and stopped ones are told."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick_compilation
import small_training as small
from distributed_worker import STEPS, TRAINING
from ports import free_port

from advcloak_jax.training import speed
from advcloak_jax.training.checkpoint import read_checkpoint
from advcloak_jax.training.metrics import read_metrics

WORKER = Path(__file__).with_name("distributed_worker.py")
PATIENCE = 600.0
"""Seconds after which a test gives up on a process."""


def launch(what: str, folder: Path, processes: int, devices: int = 1) -> list[subprocess.Popen[str]]:
    """Start so many processes with so many simulated devices each."""
    flags = f"--xla_force_host_platform_device_count={devices} {quick_compilation.used()}"
    environment = {**os.environ, "XLA_FLAGS": flags}
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, str(WORKER), what, str(folder), f"127.0.0.1:{port}", str(processes), str(number)],
            cwd=folder.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]


def finish(processes: list[subprocess.Popen[str]], status: int = 0) -> list[str]:
    """Wait for all; what each wrote on standard error."""
    errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), errors
    return errors


def until_step(folder: Path, step: int) -> None:
    """Wait until metrics of this step are written."""
    ends = time.monotonic() + PATIENCE
    while not (folder / "metrics.csv").exists() or not any(int(r["step"]) >= step for r in read_metrics(folder)):
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture(scope="module", params=[1, 2], ids=["two devices", "two by two devices"])
def folders(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """What one process, and two with one or two devices each, made of every job on the same number of devices.

    One device against several is compared in test_parallel.py. In jobs that follow each other it would be no test of
    processes: rounding alone turns some rectifiers there.
    """
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    finish(launch("jobs", one / "x", 1, 2 * request.param))
    finish(launch("jobs", two / "x", 2, request.param))
    return one, two


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    finish(launch("shard_map", folder, 2))
    return folder


def states(checkpoints: Path, empty: Path) -> list[dict[str, Any]]:
    """The state after each step of a run that keeps all its checkpoints."""
    found = []
    for number in sorted(int(path.name) for path in checkpoints.iterdir()):
        alone = empty / str(number)
        shutil.copytree(checkpoints / str(number), alone / str(number))
        step, state = read_checkpoint(alone, best=False)
        assert step == number
        found.append(state)
    assert len(found) == 3
    return found


@pytest.mark.slow
class TestEveryJob:
    """Two processes, with one or two devices each, do all jobs as a single process with as many devices does."""

    @pytest.mark.parametrize("job", TRAINING)
    def test_states_are_those_of_one_process(self, folders: tuple[Path, Path], tmp_path: Path, job: str) -> None:
        """Gradients, which are the optimisers' states, differ by up to 3e-6 of themselves, but for the steps in which
        rounding turns a rectifier (about one in fifteen): by 2e-3 there. What is amiss with an exchange is so always.
        """
        one, two = (states(run / job / "checkpoints", tmp_path / run.name) for run in folders)
        for part in one[0]:
            if part != "step":
                differences = [small.relative(there[part], here[part]) for here, there in zip(one, two, strict=True)]
                assert max(differences) < (1e-2 if part.endswith("optimiser") else 1e-4), (part, differences)
                assert min(differences) < 1e-5, (part, differences)

    @pytest.mark.parametrize("job", TRAINING)
    def test_metrics_are_those_of_one_process(self, folders: tuple[Path, Path], job: str) -> None:
        one, two = (read_metrics(folder / job) for folder in folders)
        assert [list(row) for row in one] == [list(row) for row in two]
        for here, there in zip(two, one, strict=True):
            for name, value in there.items():
                if value and name not in speed.COLUMNS:
                    rounding = 1e-3 if name.startswith("validation") else 1e-4
                    np.testing.assert_allclose(float(here[name]), float(value), rtol=rounding, err_msg=name)

    def test_evaluation_is_that_of_one_process(self, folders: tuple[Path, Path]) -> None:
        one, two = (json.loads((folder / "verify" / "verification.json").read_text()) for folder in folders)
        for name, found in one["recognisers"].items():
            np.testing.assert_allclose(two["recognisers"][name]["auc"], found["auc"], atol=2e-3)
        tables = []
        for folder in folders:
            with (folder / "table" / "table.csv").open() as file:
                tables.append(list(csv.DictReader(file)))
        assert len(tables[0]) == len(tables[1]) > 0
        for here, there in zip(*tables, strict=True):
            for name, value in there.items():
                if name in ("protection", "low", "high", "ssim", "psnr") and value:
                    np.testing.assert_allclose(float(here[name]), float(value), rtol=1e-3, err_msg=name)
                else:
                    assert here[name] == value

    def test_one_process_writes(self, folders: tuple[Path, Path]) -> None:
        for job in TRAINING:
            assert len(list((folders[1] / job / "tensorboard").iterdir())) == 1
            steps = [row["step"] for row in read_metrics(folders[1] / job)]
            assert steps == ["1", "1", "2", "2", "3", "3"]


@pytest.mark.slow
class TestSurvival:
    @pytest.mark.parametrize(("who", "kind", "devices"), [(1, "shard_map", 1), (0, "pmap/1", 2)])
    def test_sigterm_to_one_stops_all_at_the_same_step(
        self, tmp_path: Path, undisturbed: Path, who: int, kind: str, devices: int
    ) -> None:
        """With as many devices as are used, and with one more in each process that is not."""
        processes = launch(kind, tmp_path / "run", 2, devices)
        until_step(tmp_path / "run", 12)
        processes[who].send_signal(signal.SIGTERM)
        errors = finish(processes, 143)
        step, _ = read_checkpoint(tmp_path / "run" / "checkpoints", best=False)
        assert 12 < step < STEPS
        assert f"Stopped by SIGTERM at step {step}" in errors[0]
        assert "s after the signal" in errors[who]
        # The other way to map, to show that checkpoints do not depend on it.
        finish(launch("pmap", tmp_path / "run", 2))
        same(tmp_path / "run", undisturbed)

    def test_a_killed_process_ends_the_others_with_a_sentence(self, tmp_path: Path, undisturbed: Path) -> None:
        processes = launch("shard_map", tmp_path / "run", 2)
        until_step(tmp_path / "run", 12)
        processes[1].kill()
        began = time.monotonic()
        _, errors = processes[0].communicate(timeout=PATIENCE)
        assert time.monotonic() - began < 60
        assert processes[0].returncode not in (0, None)
        assert errors.strip().splitlines()[-1].startswith("error: ")
        assert "lost" in errors.strip().splitlines()[-1]
        processes[1].communicate()
        # One process goes on where two were.
        finish(launch("shard_map", tmp_path / "run", 1))
        same(tmp_path / "run", undisturbed)

    def test_one_that_never_comes(self, tmp_path: Path) -> None:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        arguments = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2", "--process-id", "0"]
        program = Path(__file__).resolve().parents[1] / "train.py"
        answer = subprocess.run(
            [sys.executable, str(program), "recognizer", *arguments, "--initialization-timeout", "3"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert answer.returncode != 0
        time.sleep(0.2)
        assert "error: not all processes came within 3 s; check that all were started" in answer.stderr


def same(run: Path, other: Path) -> None:
    """The last states and all rows."""
    (step, here), (there_step, there) = (read_checkpoint(r / "checkpoints", best=False) for r in (run, other))
    assert step == there_step == STEPS
    assert all(here[name].tobytes() == there[name].tobytes() for name in ("step", "sum"))
    rows = [
        [{name: value for name, value in row.items() if name not in speed.COLUMNS} for row in read_metrics(r)]
        for r in (run, other)
    ]
    assert rows[0] == rows[1]
