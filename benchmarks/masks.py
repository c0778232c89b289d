"""Mask making: persons per second of each method, and OPOM against the authors' way, one person after another."""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advcloak_jax.cloaks import averaged, methods
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.networks.generator import Generator
from advcloak_jax.recognizers.recognizer import Recognizer
from benchmarks import report, timing, workloads
from benchmarks.sizes import SIZES, Size

COLUMNS = {
    "method": "method",
    "kind": "kind",
    "persons": "persons",
    "way": "way",
    "persons/s": "persons_per_second.median:.3f",
    "low": "persons_per_second.low:.3f",
    "high": "persons_per_second.high:.3f",
    "first call s": "first_call_seconds:.1f",
    "masks differ": "difference:.1e",
    "ours is": "ours_is_faster.median:.2f",
}
GENERATED = "advcloak"
TOLERANCE = 0.02
"""Share of a mask's values that rounding may turn the other way."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    every = [GENERATED, *(name for name in methods.names() if name != "hybrid")]
    parser.add_argument("--methods", nargs="+", default=every, choices=every, help="default: all")
    parser.add_argument("--size", default="full", choices=SIZES, help="default %(default)s, as published")
    parser.add_argument("--persons", type=int, default=4, help="default %(default)s")
    parser.add_argument("--images", type=int, default=10, help="of a person (default %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="gradient steps of each method; 0: as published")
    peers = "methods that PyTorch makes too: fi-uap, opom-class-centre, opom-convex-hull (default: none)"
    parser.add_argument("--peers", nargs="*", default=[], help=peers)


def run(options: argparse.Namespace) -> report.Outcome:
    """Every method on the same persons."""
    if options.quick:
        options.size, options.persons, options.images, options.steps, options.repeats = "quick", 2, 2, 1, 1
        options.methods = options.methods[:4]
    size = SIZES[options.size]
    faces = workloads.noise_faces(options.persons * options.images, size.image, options.images)
    by_person = faces.unit.reshape(options.persons, options.images, *faces.unit.shape[1:])
    if options.peers:
        from benchmarks.peers import comparison

        variables = comparison.our_variables(size)
    else:
        variables = workloads.fresh_variables(size)
    rows: list[dict[str, Any]] = []
    for name in options.methods:
        cloak = _cloak(name, size, variables, options.steps)
        calls: dict[str, Callable[[], Any]] = {"ours": _maker(cloak, by_person)}
        differs = 0.0
        if name in options.peers:
            from benchmarks.peers.masks import OneByOne, difference

            peer = OneByOne(name, size, by_person, options.steps)
            differs = difference(peer, cloak, by_person)
            calls["PyTorch, one by one"] = peer
        timings = timing.alternate(calls, options.repeats)
        for way, found in timings.items():
            row = {"method": name, "kind": cloak.kind, "persons": options.persons, "way": way}
            row |= found.summary(options.persons, "persons")
            if way != "ours":
                row["difference"] = differs
                row["same_outputs"] = differs <= TOLERANCE
                if row["same_outputs"]:
                    row["ours_is_faster"] = timing.per_item(timings["ours"], found)
            rows.append(row)
    settings = {name: getattr(options, name) for name in ("size", "persons", "images", "steps", "repeats")}
    return report.Outcome(settings, {"rows": rows}, report.table(rows, COLUMNS))


def _maker(cloak: Cloak, faces: Any) -> Callable[[], Any]:
    given, key = jnp.asarray(faces), jax.random.key(0)
    return lambda: cloak.make_masks(given, key)


def _cloak(name: str, size: Size, variables: workloads.Variables, steps: int) -> Cloak:
    """The cloak of a method with published settings, but for the number of `steps` when that is not 0."""
    if name == GENERATED:
        return averaged.averaged("AdvCloak", Generator(size.generator), variables.generator)
    found = methods.method(name)
    settings = found.settings(**({"steps": steps} if steps else {}))
    return found.build([Recognizer(workloads.surrogate_module(size), variables.surrogate)], settings)
