"""Weak scaling over processes: each has one device on cores of its own, and they exchange through JAX's runtime (gloo).

`python -m benchmarks.processes JSON` is one of the processes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from advcloak_jax.config import ClusterConfig
from advcloak_jax.errors import UserError
from advcloak_jax.training import distributed, heap
from benchmarks import collectives, report, timing, workloads
from benchmarks.sizes import SIZES

ROOT = Path(__file__).parents[1]
PORT = 29741


def cores() -> list[int]:
    """Cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def measure(kind: str, size: str, batch: int, count: int, repeats: int, cache: Path | None) -> dict[str, Any]:
    """A step of `count` processes with `batch` images and one core each; as `scaling.measure` has it.

    Raises UserError when there are fewer cores, RuntimeError when a process fails.
    """
    if count > len(cores()):
        raise UserError(f"--processes {count} is more than this machine's {len(cores())} cores.")
    told = {"kind": kind, "size": size, "batch": batch, "count": count, "repeats": repeats}
    told["cache"] = cache and str(cache.absolute())
    # A simulated device count is for one process.
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.processes", json.dumps(told | {"number": number, "core": core})],
            cwd=ROOT,
            env=plain,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number, core in enumerate(cores()[:count])
    ]
    answers = [process.communicate() for process in started]
    for process, (_, complaint) in zip(started, answers, strict=True):
        if process.returncode:
            raise RuntimeError(f"a process of {count} failed: {complaint[-2000:]}")
    found: dict[str, Any] = json.loads(answers[0][0].splitlines()[-1])
    return found


def main(told: dict[str, Any]) -> None:
    """One of the processes; the first prints what it found."""
    heap.keep_on_cpu()
    os.sched_setaffinity(0, {told["core"]})
    if told["cache"]:
        report.use_cache(Path(told["cache"]))
    count = told["count"]
    cluster = ClusterConfig(coordinator=f"127.0.0.1:{PORT}", processes=count, process_id=told["number"])
    with distributed.joined(cluster if count > 1 else ClusterConfig()):
        size, batch = SIZES[told["size"]], told["batch"] * count
        faces = workloads.noise_faces(batch, size.image, told["batch"] // 2)
        variables = workloads.fresh_variables(size)
        step = workloads.stage(told["kind"], size, faces, variables, devices=jax.devices())
        # gloo gives up on a process that is still compiling when the others exchange.
        distributed.barrier("compiled")
        found = timing.measure(step, told["repeats"], hold_pieces=True)
        print(json.dumps(describe(told["kind"], count, batch, step, found)))


def describe(kind: str, devices: int, batch: int, step: workloads.Workload, found: timing.Timing) -> dict[str, Any]:
    """A row: rates, and what each device exchanges in a step."""
    exchanged = collectives.exchanged(step.compiled.as_text())
    nothing = collectives.Exchange(0, 0)
    reduced, gathered = (exchanged.get(name, nothing) for name in ("all-reduce", "all-gather"))
    row: dict[str, Any] = {"stage": kind, "devices": devices, "processes": jax.process_count(), "batch": batch}
    row |= found.summary(batch, devices=devices)
    row |= {"all_reduces": reduced.operations, "all_reduced_mb": reduced.bytes / 1e6}
    row |= {"all_gathers": gathered.operations, "gathered_own_mb": gathered.bytes / devices / 1e6}
    row["collectives"] = {name: one._asdict() for name, one in exchanged.items()}
    return row


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
