"""One loop for every training job: dispatch, log, validate, save, stop when asked."""

import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.files import write_json
from advcloak_jax.progress import Progress
from advcloak_jax.training.checkpoint import Checkpoints
from advcloak_jax.training.metrics import MetricWriter
from advcloak_jax.training.runs import Run

PyTree = Any
SIGTERM_STATUS = 143


@dataclasses.dataclass(frozen=True)
class Job:
    """What the loop needs to know of a job.

    state: initial state, placed on its devices. advance(state, first step, steps) -> (state, metrics of each step [K]);
    the state given is used up. validate(state) -> metrics on held-out persons. rank(validation) -> higher is better.
    picture(state) -> [H, W, 3] uint8 sample, or None. columns: names of all metrics.
    """

    steps: int
    images_per_step: int
    state: PyTree
    advance: Callable[[PyTree, int, int], tuple[PyTree, dict[str, jax.Array]]]
    validate: Callable[[PyTree], dict[str, float]]
    rank: Callable[[dict[str, float]], float]
    picture: Callable[[PyTree], np.ndarray] | None
    columns: tuple[str, ...]


@contextmanager
def _stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, in place of ending the process."""
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def train(run: Run, job: Job, *, sample: Callable[[int, np.ndarray], None]) -> dict[str, float]:
    """Run `job` to its last step in the folder of `run`, from the newest checkpoint if there is one.

    Returns the last validation, also stored in result.json. On SIGTERM saves a checkpoint and raises SystemExit(143).
    Raises UserError when the loss stops being a number. `sample(step, picture)` stores a sample picture.
    """
    config = run.config
    checkpoints = Checkpoints(run.checkpoints, keep=config.keep)
    with _stop_on_sigterm() as asked:
        state, step, window = job.state, 0, {}
        if (latest := checkpoints.latest()) is not None:
            state, step, window = checkpoints.restore(latest, job.state), latest, checkpoints.notes(latest)
        writer = MetricWriter(run.folder, (*job.columns, "images_per_second"), step)
        validation: dict[str, float] = {}
        began = time.monotonic()
        try:
            with Progress(f"{run.job} {run.folder}", job.steps, "steps", start=step) as progress:
                log = _Log(writer, config.log_every, job.images_per_step, window)
                while step < job.steps and not asked.is_set():
                    count = min(config.steps_per_dispatch, job.steps - step)
                    state, metrics = job.advance(state, step, count)
                    step += count
                    # The metrics of the call before are read while this one runs on the device.
                    progress.update(count, log.add(step, metrics))
                    if step % config.checkpoint_every == 0 or step == job.steps:
                        log.flush()
                        validation = job.validate(state)
                        writer.write(step, validation)
                        if job.picture is not None:
                            picture = job.picture(state)
                            sample(step, picture)
                            writer.picture(step, "sample", picture)
                        checkpoints.save(step, state, job.rank(validation), log.window())
                log.flush()
            if step < job.steps:
                if checkpoints.latest() != step:
                    checkpoints.save(step, state, None, log.window())
                checkpoints.wait()
                print(f"Stopped by SIGTERM at step {step}; --resume continues from there.", file=sys.stderr)
                raise SystemExit(SIGTERM_STATUS)
            validation = validation or job.validate(state)
        finally:
            checkpoints.close()
            writer.close()
    seconds = time.monotonic() - began
    write_json(run.folder / "result.json", {"step": step, "validation": validation, "seconds": round(seconds, 1)})
    return validation


class _Log:
    """Holds the metrics of the newest call until the next is under way, and writes means over `every` steps.

    `window` is what an earlier process had summed up since its last row, so that a resumed run writes the same rows.
    """

    def __init__(self, writer: MetricWriter, every: int, images_per_step: int, window: dict[str, float]) -> None:
        self._writer, self._every, self._images = writer, every, images_per_step
        self._waiting: tuple[int, dict[str, jax.Array]] | None = None
        self._sums = dict(window)
        self._since, self._timed, self._note = time.monotonic(), 0, ""

    def add(self, step: int, metrics: dict[str, jax.Array]) -> str:
        """Take the metrics of a call that ends at `step`; returns a note on the newest known losses."""
        self.flush()
        self._waiting = (step, metrics)
        return self._note

    def window(self) -> dict[str, float]:
        """Sums of the metrics since the last row and, as "steps", their number."""
        return dict(self._sums)

    def flush(self) -> None:
        """Read the waiting metrics and write a row if it is time for one."""
        if self._waiting is None:
            return
        step, metrics = self._waiting
        self._waiting = None
        values = {name: np.asarray(value, np.float64) for name, value in metrics.items()}
        for name, value in values.items():
            if not np.isfinite(value).all():
                first = step - len(value) + 1 + int(np.flatnonzero(~np.isfinite(value))[0])
                raise UserError(f"{name} stopped being a number at step {first}; lower --learning-rate in a new --run.")
        count = len(next(iter(values.values())))
        self._timed += count
        for name, value in {**values, "steps": np.ones(count)}.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.sum())
        if step % self._every == 0:
            now = time.monotonic()
            means = {name: self._sums[name] / self._sums["steps"] for name in values}
            rate = self._timed * self._images / max(now - self._since, 1e-9)
            self._writer.write(step, {**means, "images_per_second": rate})
            self._note = " ".join(f"{name} {value:.3g}" for name, value in means.items())
            self._since, self._timed, self._sums = now, 0, {}
