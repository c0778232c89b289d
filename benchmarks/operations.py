"""Where a step's time goes: JAX's profile of the compiled program, summed by layers and by kinds of operations."""

import argparse
import collections
import re
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advcloak_jax.errors import UserError
from benchmarks import report, workloads
from benchmarks.sizes import SIZES
from benchmarks.stages import DTYPES, STAGES

COLUMNS = {
    "network": "network",
    "layer": "layer",
    "pass": "direction",
    "ms a step": "ms:.2f",
    "share": "share:.3f",
    "operations": "operations:.0f",
    "most of it": "kind",
}
CONTAINERS = ("while", "call", "conditional")
"""Operations whose time is that of others inside them."""


class Operation(NamedTuple):
    """One instruction of a compiled program, and whose it is; direction: "forward" or "backward"."""

    network: str
    layer: str
    direction: str
    kind: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--stage", default=STAGES[0], choices=STAGES, help="default %(default)s")
    parser.add_argument("--size", default="full", choices=SIZES, help="default %(default)s, as published")
    parser.add_argument("--batch", type=int, default=8, help="images per step (default %(default)s)")
    parser.add_argument("--persons", type=int, help=workloads.PERSONS_HELP)
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="default %(default)s")
    parser.add_argument(
        "--top", type=int, default=40, help="layers in the table; the file has all (default %(default)s)"
    )


def run(options: argparse.Namespace) -> report.Outcome:
    """Profile a few steps of one stage on one device."""
    if options.quick:
        options.size, options.batch, options.repeats = "quick", 4, 1
    size, per_person = SIZES[options.size], workloads.images_of_person(options.batch, options.persons)
    faces = workloads.noise_faces(options.batch, size.image, per_person)
    variables = workloads.fresh_variables(size)
    step = workloads.stage(options.stage, size, faces, variables, dtype=jnp.dtype(options.dtype))
    for _ in range(2):
        jax.block_until_ready(step())
    seconds, walls = profile(step, options.repeats)
    rows = by_layer(operations(step.compiled.as_text()), seconds)
    named = ("stage", "size", "batch", "persons", "dtype", "repeats")
    figures = {"step_ms": statistics.median(walls) * 1e3, "operations_ms": sum(row["ms"] for row in rows), "rows": rows}
    notes = [
        f"a step took {figures['step_ms']:.1f} ms under the profiler and its operations {figures['operations_ms']:.1f} "
        "ms: more where several run beside each other, less where none runs.",
    ]
    shown = report.table(rows[: options.top], COLUMNS)
    return report.Outcome({name: getattr(options, name) for name in named}, figures, shown, notes)


def profile(step: workloads.Workload, repeats: int) -> tuple[dict[str, float], list[float]]:
    """Seconds in a step of each instruction of the program by its name, and of each step itself under the profiler.

    An instruction's are the median of its times in all steps, times how often a step has it: one whose memory the
    system had to find first takes many times as long. Their sum can therefore be more than the mean of the steps.
    Raises UserError where the profiler of this JAX tells nothing about this device's operations.
    """
    with tempfile.TemporaryDirectory() as folder:
        walls = []
        with jax.profiler.trace(folder):
            for _ in range(repeats):
                began = time.perf_counter()
                jax.block_until_ready(step())
                walls.append(time.perf_counter() - began)
        found: dict[str, list[float]] = collections.defaultdict(list)
        for path in Path(folder).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
                for line in plane.lines:
                    for event in line.events:
                        name = dict(event.stats).get("hlo_op")
                        if name is not None:
                            found[str(name)].append(event.duration_ns * 1e-9)
    if not found:
        raise UserError(f"JAX's profiler names no operations on {jax.devices()[0].platform}; use another device.")
    return {name: statistics.median(times) * len(times) / repeats for name, times in found.items()}, walls


def operations(program: str) -> dict[str, Operation]:
    """The instructions of a compiled program's text by their names, but for those that only contain others.

    One without a source of its own has that of the first instruction it calls which has one.
    """
    called: dict[str, str] = {}
    computation = ""
    lines: list[tuple[str, str]] = []
    for line in program.splitlines():
        if begins := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = begins[1]
        elif found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line):
            lines.append((found[1], found[2]))
            if (source := _source(found[2])) and computation not in called:
                called[computation] = source
    made: dict[str, Operation] = {}
    for name, text in lines:
        if any(f" {kind}(" in text for kind in CONTAINERS):
            continue
        callee = re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", text)
        source = _source(text) or (called.get(callee[1], "") if callee else "")
        made[name] = _operation(name, source)
    return made


def _source(instruction: str) -> str:
    """What JAX traced it from, such as "jit(run)/jvp(Generator)/block_0/conv_0/dot_general"; "" where unknown."""
    found = re.search(r'op_name="([^"]*)"', instruction)
    return found[1] if found else ""


def _operation(name: str, source: str) -> Operation:
    direction = "backward" if "transpose(" in source else "forward"
    # Wrappers such as transpose(jvp(NETWORK)) are taken off; the program's own name and the primitive's are no layers.
    parts = [re.sub(r"^(?:[\w\-]+\()+|\)+$", "", part) for part in source.split("/")][1:-1]
    kind = re.sub(r"[.\d]+$", "", name)
    if not parts or not parts[0][:1].isupper():
        return Operation("other", "", direction, kind)
    # Names of methods have a dot. A gradient that is traced again begins with the network once more.
    layers = [part for part in parts[1:] if part and "." not in part]
    if parts[0] in layers:
        layers = layers[: layers.index(parts[0])]
    return Operation(parts[0], "/".join(layers[:2]), direction, kind)


def by_layer(known: Mapping[str, Operation], seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows of each layer and direction, the slowest first, with the kind of operation that most of its time goes to."""
    kinds: dict[tuple[str, str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for name, spent in seconds.items():
        if name in known:
            where = known[name][:3]
            kinds[where][known[name].kind] += spent  # type: ignore[assignment]
            counts[where] += 1
    total = sum(map(_total, kinds.values()))
    rows = [
        {
            "network": where[0],
            "layer": where[1],
            "direction": where[2],
            "ms": 1e3 * _total(spent),
            "share": _total(spent) / total,
            "operations": counts[where],
            "kind": spent.most_common(1)[0][0],
        }
        for where, spent in kinds.items()
    ]
    return sorted(rows, key=lambda row: -row["ms"])


def _total(spent: Mapping[str, float]) -> float:
    return sum(spent.values())
