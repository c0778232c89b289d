"""Training steps of stage I and of stage II with every subspace: images per second, and PyTorch's in the same run."""

import argparse
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax import subspace
from advcloak_jax.errors import UserError
from benchmarks import counts, energy, handover, hardware, report, timing, workloads
from benchmarks.sizes import SIZES, STAGE_ONE, SUBSPACES, Size

STAGES = (STAGE_ONE, *SUBSPACES)
DTYPES = ("float32", "bfloat16")
SCHEDULE = {STAGE_ONE: 100 * 50_000, "convex-hull": 100 * 3_000 * 16}
"""Images of the paper's two stages: 100 epochs of 50,000 images, and of 3,000 persons with 16 images each."""

COLUMNS = {
    "stage": "stage",
    "size": "size",
    "batch": "batch",
    "way": "way",
    "images/s": "images_per_second.median:.2f",
    "low": "images_per_second.low:.2f",
    "high": "images_per_second.high:.2f",
    "step p50 s": "step_seconds.p50:.3f",
    "p95": "step_seconds.p95:.3f",
    "GFLOP/image": "gflop_per_image:.2f",
    "MFU": "mfu:.2f",
    "differs": "difference:.1e",
    "ours is": "ours_is_faster.median:.2f",
    "near": "ours_is_faster_near.median:.2f",
    "far": "ours_is_faster_far.median:.2f",
}
BEST = {
    "stage": "stage",
    "way": "way",
    "best batch": "batch",
    "images/s": "images_per_second:.2f",
    "ours is": "ours_is_faster:.2f",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES, help="default: all")
    parser.add_argument("--size", default="full", choices=SIZES, help="default %(default)s, as published")
    batch = "images per step (default 8); with several, every way is also compared at the best batch of its own"
    parser.add_argument("--batch", type=int, nargs="+", default=[8], help=batch)
    parser.add_argument("--persons", type=int, help=workloads.PERSONS_HELP)
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="default %(default)s")
    parser.add_argument("--devices", type=int, default=1, help="devices that share the batch (default %(default)s)")
    parser.add_argument("--dispatch", type=int, default=1, help="steps per compiled call (default %(default)s)")
    solver = "of the convex hull: XLA's loops, or one kernel of a GPU (default %(default)s)"
    parser.add_argument("--projection-solver", default="loops", choices=get_args(subspace.Solver), help=solver)
    parser.add_argument("--peers", nargs="*", default=[], help="ways of the PyTorch peer, or 'all' (default: none)")


def run(options: argparse.Namespace) -> report.Outcome:
    """Measure every stage; with peers, one after another in turns with ours."""
    if options.quick:
        options.size, options.repeats, options.stages = "quick", 1, options.stages[:1]
        options.batch = [4, 8][: len(options.batch)]
    per_person = {batch: workloads.images_of_person(batch, options.persons) for batch in options.batch}
    peers = peer_ways(options.peers)
    if peers:
        from benchmarks.peers import device

        device.share_memory()
    size = SIZES[options.size]
    peak = hardware.matrix_rate(options.dtype, quick=options.quick)
    rows: list[dict[str, Any]] = []
    too_large: list[str] = []
    for kind, batch in itertools.product(options.stages, options.batch):
        faces = workloads.noise_faces(batch, size.image, per_person[batch])
        measured, left_out = measure(kind, faces, options, size, peers, hardware.mfu_base(peak))
        rows += measured
        too_large += [f"a batch of {batch} does not fit the memory: {way}, {kind}." for way in left_out]
    named = ("size", "batch", "persons", "dtype", "devices", "dispatch", "projection_solver")
    settings = {name: getattr(options, name) for name in named}
    notes = [
        f"MFU: of {hardware.mfu_base(peak) / 1e9:,.0f} GFLOP/s, the published peak or else the measured matrix rate.",
        "ours is: how many times faster our step is than that way's, medians of calls made in turns.",
        "near, far: of the turns in which cores handed values to each other as fast as ever, and in which they did not "
        "(at one cache and at two; a virtual machine may move between them).",
        *too_large,
    ]
    figures: dict[str, Any] = {"matrix_rate": peak, "rows": rows}
    table = report.table(rows, COLUMNS)
    if len(options.batch) > 1:
        figures["best_batches"] = best_batches(rows)
        table += "\n\n" + report.table(figures["best_batches"], BEST)
    if options.size == "full" and (hours := schedule_hours(rows)):
        figures["schedule_hours"] = hours
        told = ", ".join(f"{taken:,.1f} ({way})" for way, taken in hours.items())
        notes.append(f"hours that the paper's two stages take at these rates, 5 M and 4.8 M images: {told}.")
    if peers:
        figures["parameters"] = check_parameters(size)
    return report.Outcome(settings | {"repeats": options.repeats}, figures, table, notes)


def best_batches(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each way of each stage at the batch of its highest median rate, and how many times faster ours is at its own.

    A ratio is of medians of calls of one run, but not in turns; only where outputs are the same at that batch.
    """
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["stage"], row["way"]
        if key not in best or row["images_per_second"]["median"] > best[key]["images_per_second"]["median"]:
            best[key] = row
    found = []
    for (stage, way), row in best.items():
        rate = row["images_per_second"]["median"]
        found.append({"stage": stage, "way": way, "batch": row["batch"], "images_per_second": rate})
        if row.get("same_outputs"):
            found[-1]["ours_is_faster"] = best[stage, "ours"]["images_per_second"]["median"] / rate
    return found


def schedule_hours(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Hours of the paper's whole schedule, by the best median rate of each way that was measured in both stages."""
    rates: dict[tuple[str, str], float] = {}
    for row in rows:
        key = row["way"], row["stage"]
        rates[key] = max(rates.get(key, 0.0), row["images_per_second"]["median"])
    ways = dict.fromkeys(row["way"] for row in rows)
    return {
        way: sum(images / rates[way, stage] for stage, images in SCHEDULE.items()) / 3600
        for way in ways
        if all((way, stage) in rates for stage in SCHEDULE)
    }


def peer_ways(names: list[str]) -> list[str]:
    """The peer's ways asked for. Raises UserError for an unknown one, or when PyTorch is not installed."""
    if not names:
        return []
    if importlib.util.find_spec("torch") is None:
        raise UserError("--peers needs PyTorch: pip install -r requirements-peers.txt.")
    from benchmarks.peers.stages import WAYS

    chosen = list(WAYS) if names == ["all"] else names
    if unknown := [name for name in chosen if name not in WAYS]:
        raise UserError(f"--peers {unknown[0]} is not known; use {', '.join(WAYS)} or all.")
    return chosen


def check_parameters(size: Size) -> dict[str, int]:
    """Trained values of each network, the same in ours and the peer's. Raises RuntimeError where they differ."""
    from benchmarks.peers import comparison

    theirs = comparison.parameters(size)
    ours = {
        name: sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        for name, variables in workloads.fresh_variables(size)._asdict().items()
    }
    if ours != theirs:
        raise RuntimeError(f"numbers of parameters differ: ours {ours}, the peer's {theirs}")
    return ours


def measure(
    kind: str, faces: workloads.Faces, options: argparse.Namespace, size: Size, peers: list[str], peak: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of one stage, ours, then every way of the peer; and the ways for which the memory is too small.

    Where it is too small for ours, nothing is measured.
    """
    batch = len(faces.pixels)
    if peers:
        from benchmarks.peers import comparison

        variables = comparison.our_variables(size)
    else:
        variables = workloads.fresh_variables(size)
    devices = jax.local_devices()[: options.devices]
    if len(devices) < options.devices:
        raise UserError(f"--devices {options.devices} is more than this machine's {len(jax.local_devices())}.")
    try:
        ours = workloads.stage(
            kind,
            size,
            faces,
            variables,
            dtype=jnp.dtype(options.dtype),
            devices=devices,
            dispatch=options.dispatch,
            solver=options.projection_solver,
        )
        # The steps that are compared come first: later ones differ by rounding that Adam has enlarged.
        first = [{name: np.asarray(value)[0] for name, value in ours().items()} for _ in range(2)]
    except RuntimeError as error:
        if not hardware.is_too_large(error):
            raise
        return [], ["ours"]
    calls: dict[str, Callable[[], Any]] = {"ours": ours}
    differences: dict[str, float] = {}
    if peers:
        made, differences = comparison.compare(kind, size, faces, peers, first)
        calls |= made
    readings: list[float] = []

    def read() -> None:
        if devices[0].platform == "cpu" and not options.quick and (taken := handover.read()) is not None:
            readings.append(taken)

    timings = timing.alternate(calls, options.repeats, between=read, hold_pieces=not options.give_back)
    places = handover.places(readings) if readings else {}
    needed = counts.step_flop(size)
    rows = []
    for name, found in timings.items():
        items, steps = (ours.items, ours.steps) if name == "ours" else (batch, 1)
        row: dict[str, Any] = {"stage": kind, "size": options.size, "batch": batch, "way": name}
        row["images_of_person"] = faces.per_person
        row |= found.summary(items, devices=len(devices), steps=steps)
        for place, turns in places.items():
            row[f"images_per_second_{place}"] = timing.chosen(found, turns).rates(items)
        if name == "ours":
            row["hand_over_ns"] = readings
            row["gflop_per_image"] = needed / 1e9
            row["mfu"] = needed * ours.items / len(devices) / found.median / peak
            if not options.quick and (used := energy.per_item(ours, ours.items)) is not None:
                row["energy_per_image"] = used
        else:
            row["difference"] = differences[name]
            row["same_outputs"] = differences[name] <= comparison.tolerance(name, options.dtype)
            if row["same_outputs"]:
                row["ours_is_faster"] = timing.per_item(timings["ours"], found, ours.items, items)
                for place, turns in places.items():
                    alike = (timing.chosen(one, turns) for one in (timings["ours"], found))
                    row[f"ours_is_faster_{place}"] = timing.per_item(*alike, ours.items, items) | {"turns": len(turns)}
        rows.append(row)
    return rows, [name for name in peers if name not in calls]
