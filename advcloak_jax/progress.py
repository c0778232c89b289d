"""Progress with rate and time left: a bar on a terminal, plain lines in a log file."""

import sys
import time
from types import TracebackType

import jax
from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts work done out of `total` units, starting at `start`, as a bar or as lines on standard error.

    The first update, before which programs are compiled, counts in neither rate nor time left, unless it was all there
    was to do. Of several processes only the first shows progress.
    """

    def __init__(self, label: str, total: int, unit: str, *, start: int = 0) -> None:
        self._label, self._total, self._unit = label, total, unit
        self.done = start
        self._last_line = time.monotonic()
        self._begun = self._last_line, start
        self._warm: tuple[float, int] | None = None
        self._bar, self._silent = None, jax.process_index() > 0
        if not self._silent and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, desc=label, unit=unit, dynamic_ncols=True)

    def update(self, amount: int, note: str = "") -> None:
        """Count `amount` more units; `note` stands behind the bar or line."""
        self.done += amount
        if self._warm is None:
            self._warm = time.monotonic(), self.done
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif not self._silent and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._line(note)

    def close(self) -> None:
        """End the bar, or write the last line."""
        if self._bar is not None:
            self._bar.close()
        elif not self._silent:
            self._line("done" if self.done >= self._total else "stopped")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, note: str) -> None:
        self._last_line = time.monotonic()
        parts = [f"{self._label}: {self.done}/{self._total} {self._unit}", *self._pace(self._last_line), note]
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    def _pace(self, now: float) -> list[str]:
        """Rate and time left."""
        since, before = self._warm or self._begun
        if self.done == before and self.done >= self._total:
            since, before = self._begun
        rate = (self.done - before) / max(now - since, 1e-9)
        if rate == 0:
            return ["time left unknown"]
        return [f"{rate:.1f} {self._unit}/s", f"{(self._total - self.done) / rate:.0f} s left"]
