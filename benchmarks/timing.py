"""How things are timed: warm-up excluded, calls that are compared alternate, medians with their spread."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from advcloak_jax.training.pieces import Pieces


class Timing(NamedTuple):
    """Seconds of the first call (for JAX: with compilation) and of every timed one."""

    first: float
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds of a timed call."""
        return statistics.median(self.seconds)

    def rates(self, items: float) -> dict[str, float]:
        """Median, slowest and fastest items per second, for so many items a call."""
        found = sorted(items / one for one in self.seconds)
        return {"median": statistics.median(found), "low": found[0], "high": found[-1]}

    def summary(self, items: float, what: str = "images", devices: int = 1, steps: int = 1) -> dict[str, Any]:
        """Rates over all and for each of `devices`, and percentiles of a step; a call makes `steps` of them."""
        step = np.asarray(self.seconds) / steps
        rates = self.rates(items)
        return {
            f"{what}_per_second": rates,
            f"{what}_per_second_per_device": rates["median"] / devices,
            "step_seconds": {"p50": float(np.percentile(step, 50)), "p95": float(np.percentile(step, 95))},
            "first_call_seconds": self.first,
            "timed_calls": len(self.seconds),
        }


def clock(call: Callable[[], Any]) -> float:
    """Seconds until what `call` returns is there."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def alternate(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    warmup: int = 1,
    between: Callable[[], None] = lambda: None,
    hold_pieces: bool = False,
) -> dict[str, Timing]:
    """Time every call `repeats` times, in turns, so that whatever slows the machine for a while slows all alike.

    `warmup` calls of each come first and are not counted; the first of them is reported beside. `between` is called
    before every turn and after the last, which no timing includes. hold_pieces: what compiling left of the CPU's heap
    is held while calls are timed, as in training (`pieces`).
    """
    first: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with Pieces(on_cpu=hold_pieces and jax.default_backend() == "cpu") as pieces:
        for name, call in calls.items():
            for _ in range(max(1, warmup)):
                first.setdefault(name, clock(call))
        pieces.take()
        for _ in range(repeats):
            between()
            for name, call in calls.items():
                seconds[name].append(clock(call))
        between()
    return {name: Timing(first[name], tuple(seconds[name])) for name in calls}


def measure(call: Callable[[], Any], repeats: int, *, warmup: int = 1, hold_pieces: bool = False) -> Timing:
    """Time one call."""
    return alternate({"": call}, repeats, warmup=warmup, hold_pieces=hold_pieces)[""]


def chosen(found: Timing, turns: Sequence[int]) -> Timing:
    """The same call, by some of its turns."""
    return Timing(found.first, tuple(found.seconds[turn] for turn in turns))


def per_item(ours: Timing, theirs: Timing, our_items: float = 1, their_items: float = 1) -> dict[str, float]:
    """How many times faster an item is with `ours`: of the medians, and the extremes of the calls made in turns."""
    factor = our_items / their_items
    turns = [factor * b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    return {"median": factor * theirs.median / ours.median, "low": min(turns), "high": max(turns)}
