"""How fast a run trains, what it costs beside training, and how much of the devices it uses."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from advcloak_jax.training import device_peaks, memory
from advcloak_jax.training.times import Times

PHASES = ("checkpoint", "validation")
COLUMNS = (
    "images_per_second",
    "mfu",
    "input_wait",
    "compile_seconds",
    *(f"{phase}_seconds" for phase in PHASES),
)
"""Of every row of metrics: images a second of training time; model FLOPs utilisation, empty where the devices' peak is
not known; share of training time that the loop waited for its input; seconds of everything else since the last row."""


def peak_of(devices: Sequence[jax.Device], dtype: str) -> float | None:
    """FLOP/s of all devices together when networks compute in `dtype`; None where it is not known."""
    known = [device_peaks.find(device.device_kind) for device in devices]
    each = [None if peak is None else peak.flops(dtype) for peak in known]
    return None if None in each else sum(filter(None, each))


class Meter:
    """Measures since its last reading, and over the whole run.

    images, flops: of a step on all devices. peak: FLOP/s of these, None: not known. waited(): seconds that the loop has
    waited for its input so far.
    """

    def __init__(
        self, images: int, flops: float, peak: float | None, times: Times, waited: Callable[[], float]
    ) -> None:
        self._images, self._flops, self._peak, self._times, self._waited = images, flops, peak, times, waited
        self._first = self._last = self._now()

    def _now(self) -> dict[str, float]:
        apart = {f"{phase}_seconds": self._times.of(phase) for phase in PHASES}
        return {
            "seconds": time.monotonic(),
            "apart": self._times.apart(),
            "waited": self._waited(),
            "compile_seconds": self._times.compile_seconds,
            **apart,
        }

    def read(self, steps: int) -> dict[str, float]:
        """Values of COLUMNS since the last reading, in which so many steps were trained."""
        before, self._last = self._last, self._now()
        return self._between(before, self._last, steps)

    def overall(self, steps: int) -> dict[str, float]:
        """The same since the start, with the seconds of training and of waiting for input."""
        now = self._now()
        spent = {name: now[name] - self._first[name] for name in now}
        told = self._between(self._first, now, steps)
        return {
            **told,
            "input_wait_seconds": spent["waited"],
            "training_seconds": spent["seconds"] - spent["apart"],
        }

    def _between(self, before: dict[str, float], after: dict[str, float], steps: int) -> dict[str, float]:
        spent = {name: after[name] - before[name] for name in after}
        training = max(spent["seconds"] - spent["apart"], 1e-9)
        found = {
            "images_per_second": steps * self._images / training,
            "input_wait": spent["waited"] / training,
            "compile_seconds": spent["compile_seconds"],
            **{f"{phase}_seconds": spent[f"{phase}_seconds"] for phase in PHASES},
        }
        if self._peak is not None:
            found["mfu"] = steps * self._flops / training / self._peak
        return found


def summary(meter: Meter, steps: int) -> dict[str, Any]:
    """What result.json tells of this process: `Meter.overall`, and its peak memory."""
    kind, used = memory.peak()
    return {name: round(value, 4) for name, value in meter.overall(steps).items()} | {f"peak_{kind}_bytes": used}


def describe(told: dict[str, Any]) -> str:
    """A line for people."""
    names = ("training", "compile", "input_wait", "checkpoint", "validation")
    parts = [f"{told['images_per_second']:.1f} images/s"]
    parts += [f"MFU {100 * told['mfu']:.1f} %"] if "mfu" in told else []
    parts += [f"{name.replace('_', ' ')} {told[f'{name}_seconds']:.1f} s" for name in names]
    for kind, owner in (("device", "the fullest device"), ("process", "the process, as its devices tell none")):
        if f"peak_{kind}_bytes" in told:
            parts.append(f"peak memory {told[f'peak_{kind}_bytes'] / 2**30:.2f} GiB of {owner}")
    return ", ".join(parts) + "."
