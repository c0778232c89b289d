"""A trace of some steps for TensorBoard's or Perfetto's eyes, by JAX's profiler."""

import logging
from pathlib import Path
from typing import Any

import jax

_log = logging.getLogger("advcloak_jax")


class Tracer:
    """Traces the calls that hold the steps from `first` up to, not including, `last`; an empty range traces nothing.

    Files go to `folder`, one for each process.
    """

    def __init__(self, folder: Path, steps: range) -> None:
        self._folder, self._steps = folder, steps
        self._running = self._done = False

    def before(self, step: int, count: int) -> None:
        """A call of the steps `step` .. `step + count - 1` is about to be made."""
        if (
            not self._done
            and not self._running
            and range(max(step, self._steps.start), min(step + count, self._steps.stop))
        ):
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, state: Any) -> None:
        """Calls up to `step` are made; `state` is what the newest one gives. Ends the trace behind the last step."""
        if self._running and step >= self._steps.stop:
            self._stop(state)

    def close(self, state: Any) -> None:
        """Training ends: end the trace that is still running, and warn where there was none to make."""
        if self._running:
            self._stop(state)
        elif self._steps and not self._done:
            _log.warning("--profile %d:%d: no such step was made", self._steps.start, self._steps.stop)

    def _stop(self, state: Any) -> None:
        # What is dispatched is not computed yet.
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        self._running, self._done = False, True
