"""Ways to make a step faster, each as it was and as it would be, in turns; benchmarks/LOG.md says what came of them."""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import candidate_counts, candidate_layers, candidate_parts, candidate_steps, report, timing
from benchmarks.sizes import SIZES

PAIRS: dict[str, Callable[[Any, int], candidate_parts.Pair]] = (
    candidate_parts.PAIRS | candidate_layers.PAIRS | candidate_steps.PAIRS | candidate_counts.PAIRS
)
COLUMNS = {
    "candidate": "candidate",
    "old ms": "old_ms:.2f",
    "new ms": "new_ms:.2f",
    "new is": "new_is_faster.median:.3f",
    "low": "new_is_faster.low:.3f",
    "high": "new_is_faster.high:.3f",
    "differs": "difference:.1e",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--names", nargs="+", default=list(PAIRS), choices=list(PAIRS), help="default: all")
    parser.add_argument("--size", default="full", choices=SIZES, help="default %(default)s, as published")
    parser.add_argument("--batch", type=int, default=8, help="images per call (default %(default)s)")


def run(options: argparse.Namespace) -> report.Outcome:
    """Every candidate that this machine can run."""
    if options.quick:
        options.size, options.batch, options.repeats = "quick", 4, 1
        options.names = [name for name in options.names if name in ("layout", "flipped kernels", "fused optimiser")]
    rows: list[dict[str, Any]] = []
    notes = ["differs: largest difference of what both return, relative to its largest value."]
    for name in options.names:
        if name in candidate_parts.TWO_DEVICES and len(jax.local_devices()) < 2:
            notes.append(f"{name}: needs two devices (XLA_FLAGS=--xla_force_host_platform_device_count=2).")
            continue
        pair = PAIRS[name](SIZES[options.size], options.batch)
        rows.append({"candidate": name} | measure(pair, options.repeats, hold_pieces=not options.give_back))
    settings = {name: getattr(options, name) for name in ("size", "batch", "repeats")}
    return report.Outcome(settings, {"rows": rows}, report.table(rows, COLUMNS), notes)


def measure(pair: candidate_parts.Pair, repeats: int, *, hold_pieces: bool = False) -> dict[str, Any]:
    """How many times faster the new way is, and how far what it returns is from what the old one did."""
    differs = difference(pair.old(), pair.new())
    found = timing.alternate({"old": pair.old, "new": pair.new}, repeats, hold_pieces=hold_pieces)
    row: dict[str, Any] = {"old_ms": found["old"].median * 1e3 / pair.old_steps}
    row["new_ms"] = found["new"].median * 1e3 / pair.new_steps
    row["new_is_faster"] = timing.per_item(found["new"], found["old"], pair.new_steps, pair.old_steps)
    return row | {"difference": differs, "timed_calls": repeats}


def difference(old: Any, new: Any) -> float:
    """Largest difference of two trees of arrays, each relative to its largest value."""
    found = 0.0
    for one, other in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
        found = max(found, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)))
    return found
