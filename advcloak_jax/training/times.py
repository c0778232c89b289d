"""Where the time of a run goes: compilation, checkpoints and validation apart from training."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax.monitoring

COMPILE_EVENTS = "/jax/core/compile/"


class Times:
    """Seconds of phases, without what was traced and compiled in them, which is a phase of its own.

    While it is entered, JAX tells it of every compilation of this process.
    """

    def __init__(self) -> None:
        self.compile_seconds = 0.0
        self._phases: dict[str, float] = {}
        self._spans: list[tuple[float, float]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the body as that of the phase."""
        began, compiled = time.monotonic(), self.compile_seconds
        try:
            yield
        finally:
            spent = time.monotonic() - began - (self.compile_seconds - compiled)
            self._phases[name] = self._phases.get(name, 0.0) + max(spent, 0.0)

    def of(self, name: str) -> float:
        """Seconds of a phase so far."""
        return self._phases.get(name, 0.0)

    def apart(self) -> float:
        """Seconds of compilation and of all phases: time in which nothing was trained."""
        return self.compile_seconds + sum(self._phases.values())

    def _compiled(self, event: str, start_time: float, end_time: float, **kwargs: str | int) -> None:
        """Events nest, and the inner ones are told first: only what is not counted yet is added."""
        if not event.startswith(COMPILE_EVENTS):
            return
        inner = [(a, b) for a, b in self._spans if a >= start_time]
        self._spans = [(a, b) for a, b in self._spans if a < start_time] + [(start_time, end_time)]
        self.compile_seconds += (end_time - start_time) - sum(b - a for a, b in inner)

    def __enter__(self) -> "Times":
        jax.monitoring.register_event_time_span_listener(self._compiled)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_time_span_listener(self._compiled)
