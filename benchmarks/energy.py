"""Energy, where the device or the processor reports it: NVIDIA's driver, or the processor's RAPL counters."""

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

RAPL = Path("/sys/class/powercap")
SECONDS = 3.0
"""How long is measured at least: the sources are read ten times a second or less."""


def per_item(call: Callable[[], Any], items: int) -> dict[str, Any] | None:
    """Joules for each of the `items` of a call, and where that was read; None where nothing reports it."""
    if jax.default_backend() in ("gpu", "cuda") and shutil.which("nvidia-smi"):
        return _by_nvidia(call, items)
    before = _rapl_joules()
    if before is None:
        return None
    count = _repeat(call) * items
    after = _rapl_joules()
    # The counter starts again from 0 every so often.
    return None if after is None or after < before else {"source": "RAPL", "joules": (after - before) / count}


def _repeat(call: Callable[[], Any]) -> int:
    """Calls made in SECONDS."""
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        jax.block_until_ready(call())
        calls += 1
    return calls


def _rapl_joules() -> float | None:
    """Joules of all processor packages since some moment."""
    try:
        packages = [path for path in RAPL.glob("*-rapl:*") if path.name.count(":") == 1]
        return sum(int((path / "energy_uj").read_text()) for path in packages) / 1e6 if packages else None
    except OSError:
        return None


def _by_nvidia(call: Callable[[], Any], items: int) -> dict[str, Any] | None:
    """Mean power that the driver reports of the first device, times the time."""
    query = ["nvidia-smi", "--id=0", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "--loop-ms=100"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as sampler:
        began = time.perf_counter()
        calls = _repeat(call)
        seconds = time.perf_counter() - began
        sampler.terminate()
        read, _ = sampler.communicate()
    try:
        watts = statistics.mean(float(line) for line in read.splitlines() if line.strip())
    except (ValueError, statistics.StatisticsError):
        return None
    return {"source": "nvidia-smi", "joules": watts * seconds / (calls * items)}
