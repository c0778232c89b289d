"""Depthwise convolution as sums of shifted products, with an input gradient that is made of the same.

XLA's grouped convolutions are slow, on CPUs above all. Left to autodiff, the gradient of the shifted sum is nine padded
products, into each of which XLA fuses the layer's activation and with it the nine products of the forward pass again.
"""

import functools
import itertools

import jax
import jax.numpy as jnp

Pair = tuple[int, int]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair) -> jax.Array:
    """Each channel of x [B, H, W, C] convolved with its own kernel [kh, kw, C]: [B, h, w, C]. Reverse mode only.

    Strides and zeros on every side are of rows and columns. ValueError for a kernel larger than the padded map.
    """
    return _shifted(x, kernel, stride, padding)


def _shifted(x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair) -> jax.Array:
    rows, columns, _ = kernel.shape
    padded = jnp.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0))) if any(padding) else x
    height, width = ((padded.shape[1 + i] - kernel.shape[i]) // stride[i] + 1 for i in (0, 1))
    if min(height, width) < 1:
        raise ValueError("the kernel is larger than the padded map")
    if (height, width) == (1, 1):  # one window, such as the last map's: a weighted sum over it
        return (padded[:, :rows, :columns] * kernel).sum((1, 2), keepdims=True)
    ends = ((height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1)
    products = (
        padded[:, i : i + ends[0] : stride[0], j : j + ends[1] : stride[1]] * kernel[i, j]
        for i, j in itertools.product(range(rows), range(columns))
    )
    return functools.reduce(jnp.add, products)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise(x, kernel, stride, padding), (x, kernel)


def _backward(
    stride: Pair, padding: Pair, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    (by_kernel,) = jax.linear_transpose(lambda taps: _shifted(x, taps, stride, padding), kernel)(cotangent)
    return _input_gradient(cotangent, kernel, (x.shape[1], x.shape[2]), stride, padding), by_kernel


depthwise.defvjp(_forward, _backward)


def _input_gradient(cotangent: jax.Array, kernel: jax.Array, size: Pair, stride: Pair, padding: Pair) -> jax.Array:
    """The gradient [B, H, W, C] by the input of size (H, W), from that by the output [B, h, w, C].

    Input pixel stride * m + r gets kernel row stride * q + (r + padding) % stride times output pixel
    m + (r + padding) // stride - q: for every r a stride-1 sum over q, and these are interleaved.
    """
    if cotangent.shape[1:3] == (1, 1):
        found = jnp.pad(cotangent * kernel, _zeros_around(kernel, size, padding))
        return found[:, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
    blocks = [-(-size[i] // stride[i]) for i in (0, 1)]
    taps = [-(-kernel.shape[i] // stride[i]) for i in (0, 1)]
    after = [blocks[i] + (stride[i] - 1 + padding[i]) // stride[i] - cotangent.shape[1 + i] for i in (0, 1)]
    sides = [(0, 0, 0), *((taps[i] - 1, after[i], 0) for i in (0, 1)), (0, 0, 0)]
    padded = jax.lax.pad(cotangent, jnp.zeros((), cotangent.dtype), sides)

    def products(axis: int, remainder: int) -> list[tuple[int, int]]:
        """(kernel row, first padded row) of every product of one remainder."""
        whole, first = divmod(remainder + padding[axis], stride[axis])
        rows = range(first, kernel.shape[axis], stride[axis])
        return [(row, taps[axis] - 1 + whole - q) for q, row in enumerate(rows)]

    def part(remainders: Pair) -> jax.Array:
        pairs = itertools.product(products(0, remainders[0]), products(1, remainders[1]))
        terms = [
            padded[:, top : top + blocks[0], left : left + blocks[1]] * kernel[i, j] for (i, top), (j, left) in pairs
        ]
        return functools.reduce(jnp.add, terms, jnp.zeros((), cotangent.dtype))

    if stride == (1, 1):
        return part((0, 0))
    batch, channels = cotangent.shape[0], cotangent.shape[3]
    shape = (batch, *blocks, channels)
    rows = [
        jnp.stack([jnp.broadcast_to(part((r, s)), shape) for s in range(stride[1])], 3).reshape(
            batch, blocks[0], blocks[1] * stride[1], channels
        )
        for r in range(stride[0])
    ]
    found = jnp.stack(rows, 2).reshape(batch, blocks[0] * stride[0], blocks[1] * stride[1], channels)
    return found[:, : size[0], : size[1]]


def _zeros_around(kernel: jax.Array, size: Pair, padding: Pair) -> list[Pair]:
    """What is missing of the padded map [B, H, W, C] after its first window."""
    after = (size[i] + 2 * padding[i] - kernel.shape[i] for i in (0, 1))
    return [(0, 0), *((0, zeros) for zeros in after), (0, 0)]
