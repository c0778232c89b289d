"""Peak memory of every step: what the compiler lays out for one device, and what the device itself reports."""

import argparse
import resource
import sys
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import report, workloads
from benchmarks.sizes import SIZES, STAGE_ONE, SUBSPACES

MIB = 2**20
STAGES = (STAGE_ONE, *SUBSPACES)
COLUMNS = {
    "stage": "stage",
    "batch": "batch",
    "state and faces MiB": "arguments_mib:,.0f",
    "temporary MiB": "temporary_mib:,.0f",
    "all MiB": "all_mib:,.0f",
    "MiB/image": "temporary_mib_per_image:,.1f",
    "device's peak MiB": "device_peak_mib:,.0f",
    "process' peak MiB": "process_peak_mib:,.0f",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--stages", nargs="+", default=[STAGE_ONE, "convex-hull"], choices=STAGES)
    parser.add_argument("--size", default="full", choices=SIZES, help="default %(default)s, as published")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32], help="images per step (default 8 32)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="default %(default)s")
    parser.add_argument("--run", action="store_true", help="also make a step, for what only a run tells")


def run(options: argparse.Namespace) -> report.Outcome:
    """Every stage and batch."""
    if options.quick:
        options.size, options.batch, options.run = "quick", [4], True
    size = SIZES[options.size]
    rows: list[dict[str, Any]] = []
    variables = workloads.fresh_variables(size)
    for kind in options.stages:
        for batch in options.batch:
            faces = workloads.noise_faces(batch, size.image, batch // 2)
            step = workloads.stage(kind, size, faces, variables, dtype=jnp.dtype(options.dtype))
            laid_out = step.compiled.memory_analysis()
            arguments, temporary = laid_out.argument_size_in_bytes / MIB, laid_out.temp_size_in_bytes / MIB
            row = {"stage": kind, "batch": batch, "arguments_mib": arguments, "temporary_mib": temporary}
            row |= {"all_mib": arguments + temporary, "temporary_mib_per_image": temporary / batch}
            if options.run:
                jax.block_until_ready(step())
                row |= _peaks()
            rows.append(row)
    settings = {name: getattr(options, name) for name in ("size", "batch", "dtype")}
    notes = ["peaks are of the process so far: the largest of all rows above."] if options.run else []
    return report.Outcome(settings, {"rows": rows}, report.table(rows, COLUMNS), notes)


def _peaks() -> dict[str, float]:
    """MiB at most in use so far, of the first device (where it says so) and of the process."""
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"process_peak_mib": kibibytes / (1024 if sys.platform != "darwin" else MIB)}
    reported = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in reported:
        found["device_peak_mib"] = reported["peak_bytes_in_use"] / MIB
    return found
