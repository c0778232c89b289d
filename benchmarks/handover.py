"""How long two cores take to hand a value to each other: five times as long where they share no cache.

Virtual machines move between such places while they run, and a step whose threads read what others wrote is slower at
one than at the other: the place is read before every turn of calls that are compared.
"""

import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROUNDS = 20_000
LIMIT_SECONDS = 0.2
NEAR = 1.5
"""Times the shortest reading: what is below was measured with both cores at one cache, what is above it was not."""

# The answering process: it repeats what it reads at one place of the shared page at another, until it reads 255.
_ANSWER = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    page = mmap.mmap(file.fileno(), 0)
page[1024] = 1
seen = 0
while seen != 255:
    while page[0] == seen:
        pass
    seen = page[0]
    page[512] = seen
"""


def read() -> float | None:
    """Nanoseconds that a value takes to another process and back, both waiting without sleeping; None with one core.

    Python's own time for it, some hundred nanoseconds, is in it: readings are for comparing with each other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores is None or cores < 2:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page"
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as page:
            answering = subprocess.Popen([sys.executable, "-I", "-S", "-c", _ANSWER, str(path)])
            try:
                while not page[1024]:
                    if answering.poll() is not None:
                        raise RuntimeError(f"the answering process ended with {answering.returncode}")
                took = _rounds(page)
            finally:
                page[0] = 255
                answering.wait()
    return float(np.median(took)) * 1e9


def _rounds(page: mmap.mmap) -> list[float]:
    """Seconds of a round, of so many as the limit leaves time for, by hundreds."""
    took: list[float] = []
    value = 0
    began = last = time.perf_counter()
    while len(took) * 100 < ROUNDS and last - began < LIMIT_SECONDS:
        for _ in range(100):
            value = 1 + value % 250
            page[0] = value
            while page[512] != value:
                pass
        now = time.perf_counter()
        took.append((now - last) / 100)
        last = now
    return took


def places(readings: Sequence[float]) -> dict[str, list[int]]:
    """Turns with both cores at one cache ("near") and at two ("far"), by the readings before every turn and behind all.

    Turns between whose two readings the place changed are in neither; a place without turns is left out. Where no
    reading is `NEAR` times another, all are at one place, which may be either: they are near.
    """
    bound = NEAR * min(readings)
    near = [reading < bound for reading in readings]
    turns = range(len(readings) - 1)
    found = {
        "near": [turn for turn in turns if near[turn] and near[turn + 1]],
        "far": [turn for turn in turns if not near[turn] and not near[turn + 1]],
    }
    return {place: of_place for place, of_place in found.items() if of_place}
