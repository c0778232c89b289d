"""Bytes that devices exchange, counted in a compiled program's text."""

import re
from typing import NamedTuple

WIDTH = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4}
WIDTH |= {"s64": 8, "u64": 8, "f64": 8, "token": 0}

OPERATIONS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_LINE = re.compile(rf"= (?P<shape>\(.*?\)|\S+) (?P<name>{'|'.join(OPERATIONS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Exchange(NamedTuple):
    """One kind of collective: how many of it a call makes, and the bytes of their results on a device."""

    operations: int
    bytes: int


def exchanged(program: str) -> dict[str, Exchange]:
    """The collectives in HLO text, as `compiled.as_text()` gives it. A loop's body counts once."""
    found: dict[str, Exchange] = {}
    for line in program.splitlines():
        match = _LINE.search(line)
        if match is None:
            continue
        arrays = _arrays(match["shape"])
        # What an asynchronous start returns names its operands and then its results.
        size = sum(arrays) // 2 if match["start"] and match["name"] != "all-reduce" else sum(arrays)
        before = found.get(match["name"], Exchange(0, 0))
        found[match["name"]] = Exchange(before.operations + 1, before.bytes + size)
    return found


def result_bytes(shape: str) -> int:
    """Bytes of a shape in HLO text, of all arrays of a tuple."""
    return sum(_arrays(shape))


def result_elements(shape: str) -> int:
    """Values of a shape in HLO text, of all arrays of a tuple."""
    return sum(_bytes(kind, sides) // max(WIDTH[kind], 1) for kind, sides in _ARRAY.findall(shape))


def _arrays(shape: str) -> list[int]:
    return [_bytes(kind, sides) for kind, sides in _ARRAY.findall(shape)]


def _bytes(kind: str, shape: str) -> int:
    count = 1
    for side in filter(None, shape.split(",")):
        count *= int(side)
    return count * WIDTH[kind]


def gather_seconds(own: float, devices: int, bandwidth: float, latency: float, operations: int) -> float:
    """An all-gather's time: each device receives the `own` bytes of all others, in log2(n) turns that double them."""
    return (devices - 1) * own / bandwidth + operations * (devices - 1).bit_length() * latency


def ring_seconds(size: float, devices: int, bandwidth: float, latency: float, operations: int) -> float:
    """An all-reduce's time by a ring: each device sends 2 (n - 1) / n of the bytes, in 2 (n - 1) turns.

    bandwidth: bytes per second that a device sends; latency: seconds of a turn; operations: all-reduces a step makes.
    """
    if devices == 1:
        return 0.0
    return 2 * (devices - 1) / devices * size / bandwidth + operations * 2 * (devices - 1) * latency


def tree_seconds(size: float, devices: int, bandwidth: float, latency: float, operations: int) -> float:
    """The same by a double binary tree: twice the bytes, in 2 log2(n) turns (what NCCL takes when n is large)."""
    if devices == 1:
        return 0.0
    turns = 2 * (devices - 1).bit_length()
    return 2 * size / bandwidth + operations * turns * latency
