"""Convolutions of few channels into few, such as of colours, two columns of the output at once: faster on CPUs.

XLA's vectors hold output channels, so that fewer than 32 leave them idle or go to slower code. Two neighbouring columns
of the output are made as twice as many channels, of the input's columns taken two by two: both are only other views of
the same memory. The kernel for it holds every tap twice, once for each column, and zeros between.
"""

import jax
import jax.numpy as jnp
from jax import export

from advcloak_jax.networks.plain import by_xla

COLUMNS = 2
INPUTS, OUTPUTS = 4, 32
"""Channels up to which it is faster."""
LONG_ROWS = 100
"""Values that a pixel sees from which on images repay being copied side by side: XLA shares a convolution between
threads only along rows, and long ones at that."""


def suits(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> bool:
    """Whether `convolve` is the faster form of a convolution: not of an exported network, nor of a single image."""
    if jax.default_backend() != "cpu" or export.is_symbolic_dim(x.shape[0]) or x.shape[0] == 1:
        return False
    few = kernel.shape[2] <= INPUTS and 4 < kernel.shape[3] <= OUTPUTS
    width = x.shape[2] + 2 * padding - kernel.shape[1] + 1
    return few and stride == 1 and kernel.shape[1] > 1 and width % COLUMNS == 0


def convolve(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """Stride-1 convolution [B, H, W, I] -> [B, h, w, O] with `kernel` [k, k, I, O] and zeros on every side; w even."""
    batch, height, width, inputs = x.shape
    side, outputs = kernel.shape[0], kernel.shape[3]
    rows, columns = (pixels + 2 * padding - side + 1 for pixels in (height, width))
    pairs = -(-(side + COLUMNS - 1) // COLUMNS)
    # Of a row of pairs the last ones make no pixels; they only keep what is beside them apart.
    in_row = columns // COLUMNS + pairs - 1
    seen = jnp.pad(x, ((0, 0), (padding, padding), (padding, COLUMNS * in_row - width - padding), (0, 0)))
    seen = seen.reshape(batch, height + 2 * padding, in_row, COLUMNS * inputs)
    beside = batch if side * side * inputs >= LONG_ROWS else 1
    seen = seen.reshape(batch // beside, beside, *seen.shape[1:]).swapaxes(1, 2)
    seen = seen.reshape(batch // beside, height + 2 * padding, beside * in_row, COLUMNS * inputs)
    made = by_xla(seen, _of_pairs(kernel, pairs), 1, [(0, 0), (0, pairs - 1)])
    made = made.reshape(batch // beside, rows, beside, in_row, COLUMNS * outputs)[:, :, :, : columns // COLUMNS]
    return made.swapaxes(1, 2).reshape(batch, rows, columns, outputs)


def _of_pairs(kernel: jax.Array, pairs: int) -> jax.Array:
    """The kernel [k, pairs, 2 * I, 2 * O] that makes both columns of a pair, from [k, k, I, O]."""
    side, _, inputs, outputs = kernel.shape
    missing = COLUMNS * pairs - side
    each = [jnp.pad(kernel, ((0, 0), (first, missing - first), (0, 0), (0, 0))) for first in range(COLUMNS)]
    return jnp.stack(each, axis=3).reshape(side, pairs, COLUMNS * inputs, COLUMNS * outputs)
