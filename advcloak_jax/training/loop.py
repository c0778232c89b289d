"""One loop for every training job: dispatch, log, validate, save, stop when asked."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import jax
import numpy as np

from advcloak_jax.files import write_json
from advcloak_jax.progress import Progress
from advcloak_jax.training import distributed, placement, speed
from advcloak_jax.training.checkpoint import Checkpoints, Restored
from advcloak_jax.training.feed import Feed
from advcloak_jax.training.log import Log
from advcloak_jax.training.metrics import Writer, open_writer
from advcloak_jax.training.pieces import Pieces
from advcloak_jax.training.runs import Run
from advcloak_jax.training.stopping import SIGTERM_STATUS, Stop
from advcloak_jax.training.times import Times
from advcloak_jax.training.tracing import Tracer

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Job:
    """What the loop needs to know of a job.

    state: initial state, placed on its devices. advance(state, first step, steps) -> (state, metrics of each step [K]);
    the state given is used up. validate(state) -> metrics on held-out persons. rank(validation) -> higher is better.
    picture(state) -> [H, W, 3] uint8 sample, or None. columns: names of all metrics.
    feed: what `advance` takes its batches from; the loop tells how long it waited for them, and closes it.
    flops: floating-point operations of a step on all devices (flops.py). devices: those it runs on.
    Of several processes only the first validates and draws, on the state as it lies on its first device.
    """

    steps: int
    images_per_step: int
    state: PyTree
    advance: Callable[[PyTree, int, int], tuple[PyTree, dict[str, jax.Array]]]
    validate: Callable[[PyTree], dict[str, float]]
    rank: Callable[[dict[str, float]], float]
    picture: Callable[[PyTree], np.ndarray] | None
    columns: tuple[str, ...]
    feed: Feed
    flops: float
    devices: Sequence[jax.Device]


def train(run: Run, job: Job, *, sample: Callable[[int, np.ndarray], None]) -> dict[str, float]:
    """Run `job` to its last step in the folder of `run`, from the newest checkpoint if there is one.

    Returns the last validation, also stored in result.json. On SIGTERM saves a checkpoint and raises SystemExit(143).
    Raises UserError when a loss or an update stops being a finite number. `sample(step, picture)` stores a picture.
    """
    began = time.monotonic()
    with (
        Times() as times,
        Pieces(on_cpu=job.devices[0].platform == "cpu") as pieces,
        Stop(job.devices) as stop,
        closing(job.feed),
        closing(Checkpoints(run.checkpoints, keep=run.config.keep)) as checkpoints,
    ):
        start = checkpoints.newest(job.state) or Restored(0, job.state, {})
        if start.step == 0 and (run.folder / "metrics.csv").exists() and distributed.writes():
            print(f"{run.folder} holds no checkpoint: it starts again from step 0.", file=sys.stderr)
        skipped = ("skipped",) if run.config.on_nan == "skip" else ()
        with closing(open_writer(run, (*job.columns, *skipped, *speed.COLUMNS), start.step)) as writer:
            training = _Training(run, job, start, checkpoints, writer, stop, times, pieces, sample)
            training.go()
            if training.step < job.steps:
                training.stop()
            validation = training.validation or training.validate()
        with times.phase("checkpoint"):
            checkpoints.wait()
    if distributed.writes():
        seconds = time.monotonic() - began
        told = speed.summary(training.meter, training.step - start.step)
        fed = {"feed": job.feed.kind, "starting": job.feed.starting_seconds, "waited": job.feed.waited_seconds}
        result = {"step": training.step, "validation": validation, "seconds": round(seconds, 1), "input": fed, **told}
        write_json(run.folder / "result.json", result)
        print(speed.describe(told), file=sys.stderr)
    return validation


class _Training:
    """A job under way: its state, the step it has reached, the newest validation."""

    def __init__(
        self,
        run: Run,
        job: Job,
        start: Restored,
        checkpoints: Checkpoints,
        writer: Writer,
        stop: Stop,
        times: Times,
        pieces: Pieces,
        sample: Callable[[int, np.ndarray], None],
    ) -> None:
        self._run, self._config, self._job = run, run.config, job
        self._checkpoints, self._writer, self._stop, self._sample = checkpoints, writer, stop, sample
        self._state, self.step = start.state, start.step
        self._times, self._pieces = times, pieces
        peak = speed.peak_of(job.devices, run.config.dtype)
        self.meter = speed.Meter(job.images_per_step, job.flops, peak, times, lambda: job.feed.waited_seconds)
        self._log = Log(writer, run.config.log_every, start.notes, self.meter, skip=run.config.on_nan == "skip")
        self._tracer = Tracer(run.folder / "profile", _steps_of(run.config.profile))
        self.validation: dict[str, float] = {}

    def go(self) -> None:
        """To the last step, or until asked to stop."""
        try:
            self._go()
        finally:
            self._tracer.close(self._state)

    def _go(self) -> None:
        label = f"{self._run.job} {self._run.folder}"
        if distributed.writes():
            print("Compiling the step, unless the cache has it.", file=sys.stderr, flush=True)
        with Progress(label, self._job.steps, "steps", start=self.step) as progress:
            compiled: set[str] = set()
            while self.step < self._job.steps and not self._stop.due:
                count = min(self._config.steps_per_dispatch, self._job.steps - self.step)
                progress.update(count, self._advance(count))
                done = {"step"}
                if self.step % self._config.checkpoint_every == 0 or self.step == self._job.steps:
                    self._checkpoint()
                    done.add("checkpoint")
                # Programs are compiled when they first run; pieces that come later are the steps' own.
                if done - compiled:
                    self._pieces.take()
                    compiled |= done
            self._log.flush()

    def _advance(self, count: int) -> str:
        """One call of so many steps; returns a note on the losses."""
        self._tracer.before(self.step, count)
        self._state, metrics = self._job.advance(self._state, self.step, count)
        self.step += count
        self._tracer.after(self.step, self._state)
        self._stop.cast()
        # The metrics of the call before are read while this one runs on the device.
        return self._log.add(self.step, metrics)

    def _checkpoint(self) -> None:
        """Validate, draw and save; never a state behind a loss that is no number."""
        self._log.flush()
        with self._times.phase("validation"):
            self.validation = self.validate()
            self._writer.write(self.step, self.validation)
            if self._job.picture is not None and distributed.writes():
                picture = self._job.picture(placement.own_copy(self._state))
                self._sample(self.step, picture)
                self._writer.picture(self.step, "sample", picture)
        with self._times.phase("checkpoint"):
            self._checkpoints.save(self.step, self._state, self._job.rank(self.validation), self._log.window())

    def validate(self) -> dict[str, float]:
        """Metrics of the state as it is."""
        found: dict[str, float] = distributed.share(
            f"validation/{self.step}", lambda: self._job.validate(placement.own_copy(self._state))
        )
        return found

    def stop(self) -> None:
        """Save, say so and raise SystemExit."""
        if self._checkpoints.latest() != self.step:
            self._checkpoints.save(self.step, self._state, None, self._log.window())
        self._checkpoints.wait()
        seconds = self._stop.seconds_since_asked()
        if distributed.writes() or seconds is not None:
            saved = "" if seconds is None else f" The checkpoint was whole {seconds:.1f} s after the signal."
            print(f"Stopped by SIGTERM at step {self.step}; --resume continues from there.{saved}", file=sys.stderr)
        raise SystemExit(SIGTERM_STATUS)


def _steps_of(profile: str) -> range:
    """The steps that --profile START:STOP names; none where it is empty."""
    first, _, last = profile.partition(":")
    return range(int(first), int(last)) if profile else range(0)
