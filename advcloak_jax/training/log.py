"""From the metrics of every step to rows of means."""

import jax
import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.training.guard import BAD
from advcloak_jax.training.metrics import Writer
from advcloak_jax.training.speed import Meter


class Log:
    """Holds the metrics of the newest call until the next is under way, and writes means over `every` steps.

    `window` is what an earlier process had summed up since its last row, so that a resumed run writes the same rows.
    skip: steps marked BAD were skipped; they are counted, and in no mean. meter: tells the speed since the last row.
    """

    def __init__(
        self,
        writer: Writer,
        every: int,
        window: dict[str, float],
        meter: Meter,
        *,
        skip: bool,
    ) -> None:
        self._writer, self._every, self._meter, self._skip = writer, every, meter, skip
        self._waiting: tuple[int, dict[str, jax.Array]] | None = None
        self._sums = dict(window)
        self._timed, self._note = 0, ""

    def add(self, step: int, metrics: dict[str, jax.Array]) -> str:
        """Take the metrics of a call that ends at `step`; returns a note on the newest known losses."""
        self.flush()
        self._waiting = (step, metrics)
        return self._note

    def window(self) -> dict[str, float]:
        """Sums of the metrics since the last row and, as "steps", their number."""
        return dict(self._sums)

    def flush(self) -> None:
        """Read the waiting metrics and write a row if it is time for one.

        Raises UserError when a loss or an update is no finite number and is not skipped, or when a row has no step
        that is.
        """
        if self._waiting is None:
            return
        step, metrics = self._waiting
        self._waiting = None
        values = {name: np.asarray(value, np.float64) for name, value in metrics.items()}
        bad = values.pop(BAD, np.zeros(len(next(iter(values.values())))))
        if not self._skip:
            _require_finite(values, bad, step)
        self._timed += len(bad)
        self._sum({**values, "steps": 1 - bad, **({"skipped": bad} if self._skip else {})})
        if step % self._every == 0:
            self._write(step, list(values))

    def _sum(self, values: dict[str, np.ndarray]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.sum())

    def _write(self, step: int, names: list[str]) -> None:
        if not self._sums["steps"]:
            raise UserError(
                f"Every step up to {step} since the last row of metrics was skipped, because no loss or update was a "
                "finite number; lower --learning-rate in a new --run."
            )
        means = {name: self._sums[name] / self._sums["steps"] for name in names}
        skipped = {"skipped": self._sums["skipped"]} if self._skip else {}
        speed = self._meter.read(self._timed)
        self._writer.write(step, {**means, **skipped, **speed})
        told = " ".join(f"{name} {value:.3g}" for name, value in {**means, **skipped}.items())
        self._note = f"{speed['images_per_second']:.1f} images/s, {told}"
        self._timed, self._sums = 0, {}


def _require_finite(values: dict[str, np.ndarray], bad: np.ndarray, last: int) -> None:
    """Raise UserError naming the first step, of those up to `last`, with a loss or an update that is not finite."""
    broken = {name: ~np.isfinite(value) for name, value in values.items()}
    marked = np.any([bad > 0, *broken.values()], axis=0)
    if not marked.any():
        return
    place = int(np.flatnonzero(marked)[0])
    names = [f"{name} ({values[name][place]})" for name, wrong in broken.items() if wrong[place]]
    raise UserError(
        f"{', '.join(names) or 'The update'} stopped being a finite number at step {last - len(bad) + 1 + place}; "
        "lower --learning-rate in a new --run, or --resume from the last good checkpoint with --on-nan skip."
    )
