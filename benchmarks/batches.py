"""A stage's step over batch sizes: where the rate stops to rise."""

import argparse
from typing import Any

import jax.numpy as jnp

from benchmarks import counts, hardware, report, timing, workloads
from benchmarks.sizes import SIZES, STAGE_ONE, SUBSPACES

COLUMNS = {
    "batch": "batch",
    "images/s": "images_per_second.median:.2f",
    "low": "images_per_second.low:.2f",
    "high": "images_per_second.high:.2f",
    "step p50 s": "step_seconds.p50:.3f",
    "p95": "step_seconds.p95:.3f",
    "MFU": "mfu:.2f",
    "temporary MiB": "temporary_mib:,.0f",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--stage", default=STAGE_ONE, choices=[STAGE_ONE, *SUBSPACES], help="default %(default)s")
    parser.add_argument("--size", default="full", choices=SIZES, help="default %(default)s, as published")
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 4, 8, 16], help="default 2 4 8 16")
    parser.add_argument("--persons", type=int, help=workloads.PERSONS_HELP)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="default %(default)s")
    parser.add_argument("--dispatch", type=int, default=1, help="steps per compiled call (default %(default)s)")


def run(options: argparse.Namespace) -> report.Outcome:
    """Every batch size; one that does not fit the device's memory ends the sweep."""
    if options.quick:
        options.size, options.batch, options.repeats = "quick", [2], 1
    size = SIZES[options.size]
    variables = workloads.fresh_variables(size)
    peak = hardware.matrix_rate(options.dtype, quick=options.quick)
    rows: list[dict[str, Any]] = []
    notes = []
    for batch in options.batch:
        per_person = 1 if options.stage == STAGE_ONE else workloads.images_of_person(batch, options.persons)
        faces = workloads.noise_faces(batch, size.image, per_person)
        try:
            step = workloads.stage(
                options.stage, size, faces, variables, dtype=jnp.dtype(options.dtype), dispatch=options.dispatch
            )
            found = timing.measure(step, options.repeats, hold_pieces=not options.give_back)
        except RuntimeError as error:
            if not hardware.is_too_large(error):
                raise
            notes.append(f"a batch of {batch} does not fit the device's memory.")
            break
        row: dict[str, Any] = {"batch": batch} | found.summary(step.items, steps=step.steps)
        row["mfu"] = counts.step_flop(size) * step.items / found.median / hardware.mfu_base(peak)
        row["temporary_mib"] = step.compiled.memory_analysis().temp_size_in_bytes / 2**20
        rows.append(row)
    settings = {name: getattr(options, name) for name in ("stage", "size", "persons", "dtype", "dispatch", "repeats")}
    return report.Outcome(settings, {"matrix_rate": peak, "rows": rows}, report.table(rows, COLUMNS), notes)
