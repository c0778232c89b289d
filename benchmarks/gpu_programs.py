"""What a program compiled for a GPU launches and moves, counted in its text."""

import re
from typing import NamedTuple

from benchmarks.collectives import result_bytes, result_elements

FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all"}
"""Instructions that launch nothing."""
WIDEST = 7
"""Pixels of the networks' largest kernels."""

_HEAD = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_LINE = re.compile(r"(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) (?P<operation>[\w\-]+)\((?P<rest>.*)$")
_WINDOW = re.compile(r"window=\{size=(\d+)x(\d+)")
_FUSED = re.compile(r"calls=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(
    r"(?:body|to_apply|branch_computations|true_computation|false_computation)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)


class Launched(NamedTuple):
    """Kernels and library calls of one run, the bytes of their operands and results, and what hints at slow ones.

    open_loops: of unknown length; each counts as if it ran once. maps_as_kernels: convolutions that have a kernel of
    more than WIDEST pixels, because XLA took a map for it, and images for channels.
    """

    kernels: int = 0
    bytes: int = 0
    open_loops: int = 0
    maps_as_kernels: int = 0

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
    total, shapes = Launched(), dict[str, str]()
    for line in bodies[name]:
        match = _LINE.match(line)
        if match is None:
            continue
        shapes[match["name"]] = match["shape"]
        if match["operation"] in FREE:
            continue
        if match["operation"] in ("while", "conditional", "call"):
            trips = _TRIPS.search(line)
            for several, one in _CALLED.findall(match["rest"]):
                for called in (several or one).split(", "):
                    inside = _of_body(bodies, called.strip("% "))
                    times = int(trips[1]) if trips else 1
                    total += inside._replace(kernels=inside.kernels * times, bytes=inside.bytes * times)
            total += Launched(open_loops=int(match["operation"] == "while" and not trips))
            continue
        operands = [shapes.get(name, "") for name in re.findall(r"%([\w.\-]+)", match["rest"].split("), ")[0])]
        read = sum(map(result_bytes, operands))
        if _is_slice(bodies, match["operation"], match["rest"]):
            # Of each operand a value for each of the result at most.
            taken = result_elements(match["shape"])
            read = sum(result_bytes(x) * min(taken, result_elements(x)) // max(result_elements(x), 1) for x in operands)
        window = _WINDOW.search(line) if match["operation"] == "custom-call" else None
        wide = window is not None and max(int(window[1]), int(window[2])) > WIDEST
        total += Launched(1, result_bytes(match["shape"]) + read, 0, int(wide))
    return total


def _is_slice(bodies: dict[str, list[str]], operation: str, rest: str) -> bool:
    """Whether an instruction slices, by itself or at the end of what is fused."""
    fused = _FUSED.search(rest) if operation == "fusion" else None
    if fused is None:
        return operation == "slice"
    roots = (_LINE.match(line) for line in bodies[fused[1]] if line.startswith("ROOT "))
    return any(root is not None and root["operation"] == "slice" for root in roots)
