"""What the device reaches: its rate of matrix products and its copy bandwidth, measured; and what programs count."""

from typing import Any

import jax
import jax.numpy as jnp

from advcloak_jax.training import device_peaks
from benchmarks import timing

SIDES = {"cpu": 2048}
"""Side of the square matrices, by platform: large enough for the full rate, small enough for a second."""
ACCELERATOR_SIDE = 8192


def matrix_rate(dtype: str = "float32", *, quick: bool = False) -> dict[str, Any]:
    """FLOP per second of a square matrix product on one device, the fastest of five."""
    side = 256 if quick else SIDES.get(jax.default_backend(), ACCELERATOR_SIDE)
    square = jnp.full((side, side), 0.5, dtype)
    product = jax.jit(lambda a: a @ a)
    found = timing.measure(lambda: product(square), 1 if quick else 5, warmup=2)
    peak = device_peaks.find(jax.devices()[0].device_kind)
    measured = 2 * side**3 / min(found.seconds)
    return {"dtype": dtype, "side": side, "flop_per_second": measured, "published": peak and peak.flops(dtype)}


def mfu_base(rate: dict[str, Any]) -> float:
    """FLOP per second that an MFU is a share of: the published peak where there is one, else the measured rate."""
    return rate["published"] or rate["flop_per_second"]


def copy_bandwidth(*, quick: bool = False) -> dict[str, Any]:
    """Bytes per second, read and written, of x + 1 over an array far larger than the caches, the fastest of five."""
    size = 2**20 if quick else 2**26
    values = jnp.zeros(size, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    found = timing.measure(lambda: add(values), 1 if quick else 5, warmup=2)
    return {"bytes": 8 * size, "bytes_per_second": 8 * size / min(found.seconds)}


def is_too_large(error: RuntimeError) -> bool:
    """Whether XLA or PyTorch raised it because the device's memory is full; XLA tells that by the text alone."""
    return "RESOURCE_EXHAUSTED" in str(error) or type(error).__name__ == "OutOfMemoryError"


def flops(compiled: Any) -> float:
    """FLOP of one call of a compiled program on each device, as XLA counts them."""
    return float((compiled.cost_analysis() or {}).get("flops", float("nan")))
