"""Progress with rate and time left: a bar on a terminal, plain lines in a log file."""

import sys
import time
from types import TracebackType

import jax
from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts work done out of `total` units, starting at `start`, as a bar or as lines on standard error.

    Of several processes only the first shows it.
    """

    def __init__(self, label: str, total: int, unit: str, *, start: int = 0) -> None:
        self._label, self._total, self._unit = label, total, unit
        self.done, self._start = start, start
        self._began = self._last_line = time.monotonic()
        self._bar, self._silent = None, jax.process_index() > 0
        if not self._silent and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, desc=label, unit=unit, dynamic_ncols=True)

    def update(self, amount: int, note: str = "") -> None:
        """Count `amount` more units; `note` stands behind the bar or line."""
        self.done += amount
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
        elapsed = max(self._last_line - self._began, 1e-9)
        rate = (self.done - self._start) / elapsed
        left = f"{(self._total - self.done) / rate:.0f} s left" if rate > 0 else "time left unknown"
        parts = [f"{self._label}: {self.done}/{self._total} {self._unit}", f"{rate:.1f} {self._unit}/s", left, note]
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)
