"""Convolutions to a few channels, as to the colours: kernel rows become channels, for wide units waste most of 3."""

import functools

import jax
import jax.numpy as jnp

from advcloak_jax.networks import products
from advcloak_jax.networks.plain import by_xla

MOST = 4
"""Output channels."""
WIDE = 32
"""Input channels from which the kernel's gradient has a form of its own."""


def suits(kernel: jax.Array, stride: int) -> bool:
    """Whether the convolution with `kernel` [k, k, I, O] is made row by row."""
    return stride == 1 and kernel.shape[-1] <= MOST


def suits_kernel_gradient(kernel: jax.Array, stride: int) -> bool:
    """Whether its kernel's gradient is."""
    return suits(kernel, stride) and kernel.shape[2] >= WIDE


def convolve(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """[B, H, W, I] -> [B, h, w, O] for an O of a few: one [1, k] convolution makes all rows' parts, k * O channels.

    The rows' parts are then added, each shifted by its row. XLA on CPUs leaves most of its vector lanes idle when a
    convolution has 3 output channels: the 7x7 one takes a quarter of its time this way.
    """
    rows, columns, inputs, outputs = kernel.shape
    by_row = kernel.transpose(1, 2, 0, 3).reshape(1, columns, inputs, rows * outputs)
    parts = by_xla(x, by_row, 1, [(padding, padding)] * 2)
    height = parts.shape[1] - rows + 1
    shifted = [parts[:, i : i + height, :, i * outputs : (i + 1) * outputs] for i in range(rows)]
    return functools.reduce(jnp.add, shifted)


def kernel_gradient(x: jax.Array, cotangent: jax.Array, size: int, padding: int) -> jax.Array:
    """The gradient [k, k, I, O] by the kernel, from that by the output [B, h, w, O].

    The cotangent's k shifts by a row are its channels. On CPUs those by a column are too, and one matrix product of the
    pixels with them is all. Elsewhere the rest is the kernel's gradient of a [1, k] convolution: a library's kernel
    reads less than a product with k * k shifts, and of a convolution to 3 channels it would waste the more.
    """
    batch, height, width, inputs = x.shape
    outputs, side = cotangent.shape[-1], size - 1 - padding
    taps = range(size - 1, -1, -1)
    if jax.default_backend() == "cpu":
        padded = jnp.pad(cotangent, ((0, 0), (side, side), (side, side), (0, 0)))
        columns = jnp.concatenate([padded[:, :, j : j + width] for j in taps], axis=-1)
        shifts = jnp.concatenate([columns[:, i : i + height] for i in taps], axis=-1)
        found = products.product(x.reshape(-1, inputs), shifts.reshape(batch * height * width, -1), (0, 0))
        return found.reshape(inputs, size, size, -1).transpose(1, 2, 0, 3).astype(x.dtype)
    padded = jnp.pad(cotangent, ((0, 0), (side, side), (0, 0), (0, 0)))
    shifts = jnp.concatenate([padded[:, i : i + height] for i in taps], axis=-1)
    by_row = jax.ShapeDtypeStruct((1, size, inputs, size * outputs), x.dtype)
    sides = [(0, 0), (padding, padding)]
    (found,) = jax.linear_transpose(lambda taps: by_xla(x, taps, 1, sides), by_row)(shifts)
    return found.reshape(size, inputs, size, outputs).transpose(2, 0, 1, 3)
