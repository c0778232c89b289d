"""What a program compiled for a GPU launches and moves, counted in its text."""

import re
from typing import NamedTuple

from benchmarks.collectives import result_bytes

FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all"}
"""Instructions that launch nothing."""

_HEAD = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_LINE = re.compile(r"(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) (?P<operation>[\w\-]+)\((?P<rest>.*)$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(
    r"(?:body|to_apply|branch_computations|true_computation|false_computation)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)


class Launched(NamedTuple):
    """Kernels and library calls of one run, the bytes of their operands and results, and loops of unknown length.

    Such a loop counts as if it ran once.
    """

    kernels: int = 0
    bytes: int = 0
    open_loops: int = 0

    def __add__(self, other: "Launched") -> "Launched":  # type: ignore[override]
        return Launched(*(a + b for a, b in zip(self, other, strict=True)))


def count(program: str) -> Launched:
    """Of HLO text, as `compiled.as_text()` gives it; every branch of a condition counts, and no cache is assumed.

    Raises ValueError when the text has no entry.
    """
    bodies: dict[str, list[str]] = {}
    entry, current = "", ""
    for line in program.splitlines():
        if head := _HEAD.match(line):
            current = head["name"]
            bodies[current] = []
            entry = current if head["entry"] else entry
        elif line.startswith("  ") and current:
            bodies[current].append(line.strip())
    if not entry:
        raise ValueError("no ENTRY in the program's text")
    return _of_body(bodies, entry)


def _of_body(bodies: dict[str, list[str]], name: str) -> Launched:
    """One computation, with those that it calls as often as it does."""
    total, sizes = Launched(), dict[str, int]()
    for line in bodies[name]:
        match = _LINE.match(line)
        if match is None:
            continue
        sizes[match["name"]] = result_bytes(match["shape"])
        if match["operation"] in FREE:
            continue
        if match["operation"] in ("while", "conditional", "call"):
            trips = _TRIPS.search(line)
            for several, one in _CALLED.findall(match["rest"]):
                for called in (several or one).split(", "):
                    inside = _of_body(bodies, called.strip("% "))
                    times = int(trips[1]) if trips else 1
                    total += Launched(inside.kernels * times, inside.bytes * times, inside.open_loops)
            total += Launched(open_loops=int(match["operation"] == "while" and not trips))
            continue
        operands = re.findall(r"%([\w.\-]+)", match["rest"].split("), ")[0])
        total += Launched(1, sizes[match["name"]] + sum(sizes.get(operand, 0) for operand in operands))
    return total
