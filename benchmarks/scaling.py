"""Bytes that devices exchange in a step, weak scaling on simulated devices and processes, and on other machines."""

import argparse
from typing import Any

import jax

from advcloak_jax.errors import UserError
from benchmarks import collectives, processes, report, timing, workloads
from benchmarks.sizes import SIZES, STAGE_ONE, SUBSPACES

COLUMNS = {
    "stage": "stage",
    "devices": "devices",
    "processes": "processes",
    "images/s": "images_per_second.median:.2f",
    "step p50 s": "step_seconds.p50:.3f",
    "efficiency": "efficiency:.2f",
    "all-reduces": "all_reduces",
    "MB all-reduced": "all_reduced_mb:.2f",
    "all-gathers": "all_gathers",
    "own MB gathered": "gathered_own_mb:.3f",
}
PREDICTED = {
    "stage": "stage",
    "interconnect": "interconnect",
    "devices": "devices",
    "exchange ms": "exchange_ms:.2f",
    "efficiency, nothing overlapped": "efficiency:.3f",
}
INTERCONNECTS = {
    # name: (bytes per second a device sends, seconds of a turn, most devices it joins); sources in docs/scaling.md.
    "NVLink 4 (H100: 450 GB/s each way)": (450e9, 3e-6, 8),
    "InfiniBand NDR (H100: 400 Gb/s each)": (50e9, 6e-6, 10**6),
    "TPU v5e ICI (one of two axes: 100 GB/s each way)": (100e9, 3e-6, 256),
    "TPU v5p ICI (one of three axes: 200 GB/s each way)": (200e9, 3e-6, 6144),
}
COUNTS = (8, 64, 256)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--stages", nargs="+", default=[STAGE_ONE, "convex-hull"], choices=[STAGE_ONE, *SUBSPACES])
    parser.add_argument("--size", default="full", choices=SIZES, help="default %(default)s, as published")
    parser.add_argument("--batch", type=int, default=4, help="images per step and device (default %(default)s)")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2], help="default 1 2; simulated on CPUs")
    parser.add_argument(
        "--processes",
        type=int,
        nargs="*",
        default=[],
        help="numbers of processes of one device and one core each, e.g. 1 2 (default: none)",
    )
    parser.add_argument("--step-ms", type=float, default=32 / 6000 * 1e3, help="assumed step of one accelerator")


def run(options: argparse.Namespace) -> report.Outcome:
    """Count, measure where there are devices, and predict where there are none."""
    if options.quick:
        options.size, options.batch, options.repeats, options.stages = "quick", 4, 1, [STAGE_ONE]
    if len(jax.local_devices()) < max(options.devices):
        raise UserError(
            f"--devices {max(options.devices)} is more than the {len(jax.local_devices())} there are; on a CPU set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={max(options.devices)}."
        )
    size = SIZES[options.size]
    variables = workloads.fresh_variables(size)
    rows: list[dict[str, Any]] = []
    predicted: list[dict[str, Any]] = []
    for kind in options.stages:
        own = [measure(kind, size, variables, options, count) for count in options.devices]
        for row in own:
            alone = own[0]["images_per_second_per_device"]
            row["efficiency"] = row["images_per_second_per_device"] / alone
        rows += own
        apart = [
            processes.measure(kind, options.size, options.batch, count, options.repeats, options.cache)
            for count in options.processes
        ]
        for row in apart:
            row["efficiency"] = row["images_per_second_per_device"] / apart[0]["images_per_second_per_device"]
        rows += apart
        predicted += predict(kind, own[-1], options.step_ms / 1e3)
    settings = {name: getattr(options, name) for name in ("size", "batch", "step_ms", "repeats")}
    settings["interconnects"] = {
        name: {"bytes_per_second": bandwidth, "turn_seconds": latency}
        for name, (bandwidth, latency, _) in INTERCONNECTS.items()
    }
    text = report.table(rows, COLUMNS) + "\n\n" + report.table(predicted, PREDICTED)
    notes = [
        "simulated devices share this machine's cores: an efficiency of 1 / devices per device is what they allow; "
        "each of several processes has a core of its own.",
        f"predicted: an assumed step of {options.step_ms:.2f} ms, the better of ring and tree, nothing overlapped.",
    ]
    return report.Outcome(settings, {"rows": rows, "predicted": predicted}, text, notes)


def measure(
    kind: str, size: Any, variables: workloads.Variables, options: argparse.Namespace, devices: int
) -> dict[str, Any]:
    """A step on so many devices, each with as many images."""
    batch = options.batch * devices
    faces = workloads.noise_faces(batch, size.image, options.batch // 2)
    step = workloads.stage(kind, size, faces, variables, devices=jax.local_devices()[:devices])
    found = timing.measure(step, options.repeats, hold_pieces=not options.give_back)
    return processes.describe(kind, devices, batch, step, found)


def predict(kind: str, counted: dict[str, Any], step: float) -> list[dict[str, Any]]:
    """Efficiency of weak scaling: the step alone over the step and its exchanges, as `processes.describe` has them."""
    reduced, gathered = counted["all_reduced_mb"] * 1e6, counted["gathered_own_mb"] * 1e6
    rows = []
    for name, (bandwidth, latency, most) in INTERCONNECTS.items():
        for count in COUNTS:
            if count > most:
                continue
            exchange = min(
                way(reduced, count, bandwidth, latency, counted["all_reduces"])
                for way in (collectives.ring_seconds, collectives.tree_seconds)
            ) + collectives.gather_seconds(gathered, count, bandwidth, latency, counted["all_gathers"])
            row = {"stage": kind, "interconnect": name, "devices": count, "exchange_ms": exchange * 1e3}
            rows.append(row | {"efficiency": step / (step + exchange)})
    return rows
