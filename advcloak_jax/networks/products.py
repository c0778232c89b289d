"""Convolutions as matrix products, which CPUs make faster for small maps of many channels and for kernel gradients."""

import math

import jax
import jax.numpy as jnp

Pair = tuple[int, ...]
"""Rows and columns."""

WORTHWHILE = 2**20
"""Multiply-adds of a convolution of one image from which on another form repays that it compiles longer."""
JOINED = 128
"""Channels of a kernel row's taps that are joined for one product; with more, copying them costs what it saves."""


def suits_forward(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> bool:
    """Whether `by_product` is the faster form of a convolution."""
    height, width = ((pixels + 2 * padding - kernel.shape[0]) // stride + 1 for pixels in x.shape[1:3])
    return _worthwhile(kernel, (height, width)) and kernel.shape[2] >= 16 * max(height, width)


def suits_input_gradient(kernel: jax.Array, cotangent: jax.Array, stride: int) -> bool:
    """Whether the transpose of `by_product` is the faster form of the gradient by the input."""
    if not _worthwhile(kernel, cotangent.shape[1:3]):
        return False
    return cotangent.shape[-1] >= 8 * max(cotangent.shape[1:3]) or kernel.shape[0] % stride != 0


def suits_kernel_gradient(kernel: jax.Array, cotangent: jax.Array) -> bool:
    """Whether `kernel_gradient` is the faster form of the gradient by the kernel."""
    return _worthwhile(kernel, cotangent.shape[1:3]) and kernel.shape[-1] >= 32


def _worthwhile(kernel: jax.Array, pixels: tuple[int, ...]) -> bool:
    """By the size of the output alone: the number of images may be unknown, where a network is exported."""
    multiplied = math.prod(kernel.shape) * math.prod(pixels)
    return jax.default_backend() == "cpu" and max(kernel.shape[:2]) > 1 and multiplied >= WORTHWHILE


def _taps(x: jax.Array, size: Pair, stride: int, padding: Pair) -> list[list[jax.Array]]:
    """For each tap (i, j) of a kernel the pixels of x [B, H, W, I] that it sees: rows x columns of [B, h, w, I]."""
    x = jnp.pad(x, ((0, 0), *((zeros, zeros) for zeros in padding), (0, 0)))
    last = [(pixels - taps) // stride * stride + 1 for pixels, taps in zip(x.shape[1:3], size, strict=True)]
    rows, columns = (range(taps) for taps in size)
    return [[x[:, i : i + last[0] : stride, j : j + last[1] : stride] for j in columns] for i in rows]


def by_product(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution [B, H, W, I] -> [B, h, w, O] with `kernel` [k, k, I, O]: one product of all taps' channels."""
    taps = [tap for row in _taps(x, kernel.shape[:2], stride, (padding, padding)) for tap in row]
    return jnp.concatenate(taps, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def input_gradient(
    cotangent: jax.Array, kernel: jax.Array, size: tuple[int, int], stride: int, padding: int
) -> jax.Array:
    """The gradient [B, H, W, I] by the input of size (H, W), from that by the output [B, h, w, O]: one product.

    It gives every tap's part, k * k * I channels; the parts are then added where their pixels are.
    """
    x = jax.ShapeDtypeStruct((cotangent.shape[0], *size, kernel.shape[2]), cotangent.dtype)
    (found,) = jax.linear_transpose(lambda values: by_product(values, kernel, stride, padding), x)(cotangent)
    return found


def kernel_gradient(x: jax.Array, cotangent: jax.Array, size: Pair, stride: int, padding: Pair) -> jax.Array:
    """The gradient [*size, I, O] by the kernel, from that by the output [B, h, w, O]: a product for each tap.

    A tap's gradient is the product of the pixels that it sees, transposed, with the cotangent. The taps of a row are
    one product where their channels are few. `padding`: zeros above and below, left and right.
    """
    inputs, outputs = x.shape[-1], cotangent.shape[-1]
    rows = _taps(x, size, stride, padding)
    if size[1] * inputs <= JOINED:
        rows = [[jnp.concatenate(row, axis=-1)] for row in rows]
    flat = cotangent.reshape(-1, outputs)
    products = [seen.reshape(-1, seen.shape[-1]).T @ flat for row in rows for seen in row]
    return jnp.concatenate(products).reshape(*size, inputs, outputs)
