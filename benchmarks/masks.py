"""Mask making: persons per second of each method, and OPOM against the authors' way, one person after another."""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
PEER = "PyTorch, one by one"
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
    parser.add_argument(
        "--peer-persons",
        type=int,
        default=0,
        help="first persons that PyTorch makes, one after another, so that its rate is known; 0 (default): all",
    )


def run(options: argparse.Namespace) -> report.Outcome:
    """Every method on the same persons."""
    if options.quick:
        options.size, options.persons, options.images, options.steps, options.repeats = "quick", 2, 2, 1, 1
        options.methods = options.methods[:4]
    size = SIZES[options.size]
    faces = workloads.noise_faces(options.persons * options.images, size.image, options.images)
    by_person = faces.unit.reshape(options.persons, options.images, *faces.unit.shape[1:])
    if options.peers:
        from benchmarks.peers import comparison, device

        device.share_memory()
        variables = comparison.our_variables(size)
    else:
        variables = workloads.fresh_variables(size)
    rows: list[dict[str, Any]] = []
    for name in options.methods:
        cloak = _cloak(name, size, variables, options.steps)
        calls: dict[str, Callable[[], Any]] = {"ours": _maker(cloak, by_person)}
        made: dict[str, Any] = {}
        step_size, persons = 0.0, {"ours": options.persons}
        if name in options.peers:
            from benchmarks.peers.masks import OneByOne

            persons[PEER] = min(options.peer_persons or options.persons, options.persons)
            peer = OneByOne(name, size, by_person[: persons[PEER]], options.steps)
            step_size = peer.settings.step_size / 255
            calls[PEER] = peer
        timings = timing.alternate({way: _kept(way, call, made) for way, call in calls.items()}, options.repeats)
        for way, found in timings.items():
            row = {"method": name, "kind": cloak.kind, "persons": persons[way], "way": way}
            row |= found.summary(persons[way], "persons")
            if way != "ours":
                row["difference"] = difference(made["ours"], made[way], step_size)
                row["same_outputs"] = row["difference"] <= TOLERANCE
                if row["same_outputs"]:
                    row["ours_is_faster"] = timing.per_item(timings["ours"], found, options.persons, persons[way])
            rows.append(row)
    names = ("size", "persons", "peer_persons", "images", "steps", "repeats")
    settings = {name: getattr(options, name) for name in names}
    return report.Outcome(settings, {"rows": rows}, report.table(rows, COLUMNS))


def _kept(way: str, call: Callable[[], Any], made: dict[str, Any]) -> Callable[[], Any]:
    """`call`, of which `made` holds the last outcome."""

    def run() -> Any:
        made[way] = call()
        return made[way]

    return run


def difference(ours: Any, theirs: np.ndarray, step_size: float) -> float:
    """Share of the values of masks [P, H, W, C] that differ by more than half a step, for the persons of `theirs`.

    A step goes along a sign, which rounding may turn.
    """
    return float((np.abs(np.asarray(ours)[: len(theirs)] - theirs) > 0.5 * step_size).mean())


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
