"""The loop on a made-up job whose every value is known: what is logged, saved, resumed, stopped and refused."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advcloak_jax.config import ImageConfig
from advcloak_jax.errors import UserError
from advcloak_jax.training.checkpoint import read_checkpoint
from advcloak_jax.training.feed import ResidentFeed
from advcloak_jax.training.loop import Job, train
from advcloak_jax.training.metrics import read_metrics
from advcloak_jax.training.runs import Run, start_run


def count_up(state: Any, first: int, count: int) -> tuple[Any, dict[str, jax.Array]]:
    """The state counts the steps, the loss of step t (from 1) is t."""
    assert int(state["step"]) == first
    return {"step": state["step"] + count}, {"loss": jnp.arange(first + 1.0, first + count + 1.0)}


def job(steps: int = 10, advance: Callable[..., Any] = count_up, picture: bool = False) -> Job:
    return Job(
        steps=steps,
        images_per_step=4,
        state={"step": jax.device_put(jnp.int32(0), jax.local_devices()[0])},
        advance=advance,
        validate=lambda state: {"auc": float(state["step"]) / 100},
        rank=lambda validation: -abs(validation["auc"] - 0.04),
        picture=(lambda state: np.full((2, 2, 3), int(state["step"]), np.uint8)) if picture else None,
        columns=("loss", "auc"),
        feed=ResidentFeed({}, lambda first, count: np.zeros((count, 4), np.int32), jax.local_devices()[:1], "pmap"),
        flops=1e6,
        devices=jax.local_devices()[:1],
    )


def nothing(step: int, picture: np.ndarray) -> None:
    raise AssertionError


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begin(tmp_path / "run")


def begin(folder: Path, **settings: Any) -> Run:
    config = ImageConfig(run=str(folder), steps_per_dispatch=2, log_every=2, checkpoint_every=4, keep=1, **settings)
    return start_run("image", config)


def table(run: Run) -> list[tuple[str, ...]]:
    return [(row["step"], row["loss"], row["auc"]) for row in read_metrics(run.folder)]


ROWS = [
    ("2", "1.5", ""),
    ("4", "3.5", ""),
    ("4", "", "0.04"),
    ("6", "5.5", ""),
    ("8", "7.5", ""),
    ("8", "", "0.08"),
    ("10", "9.5", ""),
    ("10", "", "0.1"),
]


def test_a_whole_run(run: Run) -> None:
    pictures: dict[int, int] = {}
    found = train(run, job(picture=True), sample=lambda step, picture: pictures.update({step: int(picture[0, 0, 0])}))
    assert found == {"auc": 0.1}
    assert table(run) == ROWS
    assert pictures == {4: 4, 8: 8, 10: 10}
    result = json.loads((run.folder / "result.json").read_text())
    assert (result["step"], result["validation"]) == (10, found)
    assert read_checkpoint(run.checkpoints, best=False)[0] == 10
    assert read_checkpoint(run.checkpoints, best=True)[0] == 4  # by rank
    assert run.finished


def test_the_time_of_a_run_is_told_apart(run: Run) -> None:
    train(run, job(), sample=nothing)
    result = json.loads((run.folder / "result.json").read_text())
    parts = [result[f"{name}_seconds"] for name in ("compile", "checkpoint", "validation", "training")]
    assert all(part >= 0 for part in parts)
    assert sum(parts) <= result["seconds"] + 0.1
    assert result["peak_process_bytes"] > 1e7
    row = read_metrics(run.folder)[0]
    assert row["mfu"] == ""  # the peak of a CPU is not known
    assert float(row["validation_seconds"]) >= 0


@pytest.mark.parametrize(("steps", "traced"), [("3:5", True), ("20:30", False)])
def test_steps_are_traced(
    tmp_path: Path, steps: str, traced: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))

    def noted(state: Any, first: int, count: int) -> Any:
        calls.append(str(first))
        return count_up(state, first, count)

    run = begin(tmp_path / "run", profile=steps)
    train(run, job(advance=noted), sample=nothing)
    expected = ["0", "2", "4", "6", "8"]
    if traced:  # the calls of steps 2, 3 and 4, 5
        expected[1:3] = [str(run.folder / "profile"), "2", "4", "stop"]
    assert calls == expected
    assert ("no such step was made" in caplog.text) == (not traced)


def test_a_last_call_may_be_shorter(run: Run) -> None:
    train(run, job(steps=5), sample=nothing)
    assert read_checkpoint(run.checkpoints, best=False)[0] == 5


def test_a_run_that_broke_off_goes_on_from_its_checkpoint(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def break_off(state: Any, first: int, count: int) -> Any:
        if first == 8:
            raise RuntimeError("power cut")
        return count_up(state, first, count)

    with pytest.raises(RuntimeError, match="power cut"):
        train(run, job(advance=break_off), sample=nothing)
    assert not run.finished
    calls: list[int] = []

    def noted(state: Any, first: int, count: int) -> Any:
        calls.append(first)
        return count_up(state, first, count)

    train(run, job(advance=noted), sample=nothing)
    assert calls == [8]
    assert table(run) == ROWS
    assert "starts again" not in capsys.readouterr().err


def test_a_run_without_its_checkpoints_says_that_it_starts_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    train(run, job(), sample=nothing)
    shutil.rmtree(run.checkpoints)
    train(run, job(), sample=nothing)
    assert f"{run.folder} holds no checkpoint: it starts again from step 0." in capsys.readouterr().err
    assert table(run) == ROWS


def test_a_run_killed_before_its_result_only_validates_again(run: Run) -> None:
    train(run, job(), sample=nothing)
    (run.folder / "result.json").unlink()
    assert train(run, job(advance=nothing), sample=nothing) == {"auc": 0.1}
    assert table(run) == ROWS
    assert run.finished


def test_sigterm_saves_and_ends_with_143(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def stop(state: Any, first: int, count: int) -> Any:
        if first == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return count_up(state, first, count)

    with pytest.raises(SystemExit) as raised:
        train(run, job(advance=stop), sample=nothing)
    assert raised.value.code == 143
    assert "Stopped by SIGTERM at step 6; --resume" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
    assert not run.finished
    assert read_checkpoint(run.checkpoints, best=False)[0] == 6
    train(run, job(), sample=nothing)
    assert table(run) == ROWS


def test_a_loss_that_is_no_number_ends_the_run_and_is_never_saved(run: Run) -> None:
    def break_down(state: Any, first: int, count: int) -> Any:
        state, metrics = count_up(state, first, count)
        return state, {"loss": jnp.where(metrics["loss"] >= 8, jnp.nan, metrics["loss"])}

    with pytest.raises(UserError, match=r"^loss \(nan\) stopped being a finite number at step 8; lower"):
        train(run, job(advance=break_down), sample=nothing)
    assert read_checkpoint(run.checkpoints, best=False)[0] == 4
    assert not run.finished


def test_rows_are_means_over_all_steps_since_the_last(tmp_path: Path) -> None:
    config = ImageConfig(run=str(tmp_path / "r"), steps_per_dispatch=2, log_every=6, checkpoint_every=12)
    run = start_run("image", config)
    train(run, job(steps=12), sample=nothing)
    assert [row["loss"] for row in read_metrics(run.folder)][:2] == ["3.5", "9.5"]
    assert all(float(row["images_per_second"]) > 0 for row in read_metrics(run.folder)[:2])


def test_a_row_half_gathered_when_stopped_is_completed_when_resumed(tmp_path: Path) -> None:
    config = ImageConfig(run=str(tmp_path / "r"), steps_per_dispatch=2, log_every=6, checkpoint_every=12)
    run = start_run("image", config)

    def stop(state: Any, first: int, count: int) -> Any:
        if first == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return count_up(state, first, count)

    with pytest.raises(SystemExit):
        train(run, job(steps=12, advance=stop), sample=nothing)
    assert read_checkpoint(run.checkpoints, best=False)[0] == 10
    train(run, job(steps=12), sample=nothing)
    assert [row["loss"] for row in read_metrics(run.folder)] == ["3.5", "9.5", ""]


@pytest.mark.parametrize("when", ["metrics", "checkpoint"])
def test_a_full_disk_is_an_error_and_not_a_result(run: Run, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(28, "No space left on device")

    def fail(*_: Any, **__: Any) -> None:
        raise full

    name = "metrics.MetricWriter.write" if when == "metrics" else "checkpoint.Checkpoints.save"
    monkeypatch.setattr(f"advcloak_jax.training.{name}", fail)
    with pytest.raises(OSError, match="No space left"):
        train(run, job(), sample=nothing)
    assert not run.finished
