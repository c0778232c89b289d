"""MXNet's Pooling, with its two ways of rounding the output's size and of counting the padding."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax.networks.layers import Dtype
from advcloak_jax.recognizers.depthwise import Pair
from advcloak_jax.recognizers.mxnet.attributes import Attributes
from advcloak_jax.recognizers.mxnet.layers import pair
from advcloak_jax.recognizers.mxnet.values import CHANNELS_LAST, Value


def pool(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """Pooling by the maximum, average or sum: [B, C, H, W] -> [B, C, h, w], or [B, C, 1, 1] if `global_pool`.

    The convention "full" rounds the number of windows up where "valid" rounds down; a window that then reaches beyond
    even the padding averages over what is left of it.
    """
    attributes.choice("layout", "NCHW", ("NCHW",))
    kind = attributes.choice("pool_type", "max", ("max", "avg", "sum"))
    x = inputs[0].stored(CHANNELS_LAST)
    if attributes.flag("global_pool", False):
        wholes: dict[str, Callable[..., jax.Array]] = {"max": jnp.max, "avg": jnp.mean, "sum": jnp.sum}
        return Value(wholes[kind](x, axis=(1, 2), keepdims=True), CHANNELS_LAST)
    kernel, stride = pair(attributes, "kernel"), pair(attributes, "stride", 1)
    padding = pair(attributes, "pad", 0)
    is_full = attributes.choice("pooling_convention", "valid", ("valid", "full")) == "full"
    sides = [
        (padding[i], padding[i] + _beyond(x.shape[1 + i] + 2 * padding[i], kernel[i], stride[i], is_full))
        for i in (0, 1)
    ]
    lengths = [(x.shape[1 + i] + sum(sides[i]) - kernel[i]) // stride[i] + 1 for i in (0, 1)]

    def counts(counted: Pair) -> list[np.ndarray]:
        return [_count(x.shape[1 + i], lengths[i], kernel[i], stride[i], padding[i], counted[i]) for i in (0, 1)]

    if min(count.min() for count in counts((0, 0))) < 1:
        raise ValueError("a pooling window lies wholly in the padding")
    if kind == "max":
        return Value(_windows(x, -jnp.inf, jax.lax.max, kernel, stride, sides), CHANNELS_LAST)
    total = _windows(x, 0.0, jax.lax.add, kernel, stride, sides)
    if kind == "avg":
        rows, columns = counts(padding if attributes.flag("count_include_pad", True) else (0, 0))
        total = total / jnp.asarray(np.outer(rows, columns)[:, :, None], x.dtype)
    return Value(total, CHANNELS_LAST)


def _beyond(length: int, kernel: int, stride: int, is_full: bool) -> int:
    """Pixels that the last window needs beyond the padded length."""
    if length < kernel:
        raise ValueError(f"a pooling window of {kernel} is larger than the padded map's {length}")
    return -(length - kernel) % stride if is_full else 0


def _count(length: int, windows: int, kernel: int, stride: int, padding: int, counted: int) -> np.ndarray:
    """How many pixels each of the windows along one axis averages over, of the map and `counted` of its padding."""
    start = np.arange(windows) * stride - padding
    return np.minimum(start + kernel, length + counted) - np.maximum(start, -counted)


def _windows(
    x: jax.Array,
    initial: float,
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    kernel: Pair,
    stride: Pair,
    sides: list[Pair],
) -> jax.Array:
    """Reduce the windows of x [B, H, W, C]."""
    outer = ((0, 0), *sides, (0, 0))
    start = np.asarray(initial, x.dtype)
    return jax.lax.reduce_window(x, start, combine, (1, *kernel, 1), (1, *stride, 1), outer)
