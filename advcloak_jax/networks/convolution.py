"""Convolutions in forms that are fast on CPUs too: XLA's sums, chosen by their shapes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advcloak_jax.networks import few_channels, paired_columns, products, winograd
from advcloak_jax.networks.plain import by_xla


def _plain_convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution [B, H, W, I] -> [B, h, w, O] with `kernel` [k, k, I, O] and zeros on every side, by XLA.

    On CPUs a column more is made on both sides, and cut, where there is no padding: without any, XLA's convolution and
    its kernel gradient took three times as long (256 channels, 30x30).
    """
    more = int(padding == 0 and stride == 1 and kernel.shape[0] > 2 and jax.default_backend() == "cpu")
    sides = [(padding, padding), (padding + more,) * 2]
    made = by_xla(x, kernel, stride, sides)
    return made[:, :, more : made.shape[2] - more]


def _wants_no_zeros(cotangent: jax.Array, kernel: jax.Array, stride: int) -> bool:
    """Whether a strided convolution's input gradient is `_strided_input_gradient`; GPUs' libraries know it already."""
    exact, small = kernel.shape[0] % stride == 0, min(cotangent.shape[1:3]) < kernel.shape[0]
    return jax.default_backend() == "cpu" and (exact or small)


def _strided_input_gradient(
    cotangent: jax.Array, kernel: jax.Array, size: tuple[int, int], stride: int, padding: int
) -> jax.Array:
    """The gradient [B, H, W, I] by the input of size (H, W), from that by the output [B, h, w, O].

    As in `upsampling`: a stride-1 convolution makes the pixels of each remainder modulo `stride` as channels and
    depth-to-space interleaves them, so no zeros are inserted between the cotangent's pixels and multiplied.
    """
    batch, *length, outputs = cotangent.shape
    inputs = kernel.shape[2]
    taps = -(-kernel.shape[0] // stride)
    missing = taps * stride - kernel.shape[0]
    # Padded pixel stride * m + r gets kernel row stride * q + r times output pixel m - q.
    weights = jnp.pad(kernel, ((0, missing), (0, missing), (0, 0), (0, 0)))
    weights = weights.reshape(taps, stride, taps, stride, inputs, outputs)[::-1, :, ::-1]
    weights = weights.transpose(0, 2, 5, 1, 3, 4).reshape(taps, taps, outputs, stride * stride * inputs)
    blocks = [-(-(pixels + 2 * padding) // stride) for pixels in size]
    sides = [(taps - 1, count - have) for count, have in zip(blocks, length, strict=True)]
    found = by_xla(cotangent, weights, 1, sides)
    found = found.reshape(batch, *blocks, stride, stride, inputs).transpose(0, 1, 3, 2, 4, 5)
    found = found.reshape(batch, blocks[0] * stride, blocks[1] * stride, inputs)
    return found[:, padding : padding + size[0], padding : padding + size[1]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution [B, H, W, I] -> [B, h, w, O] with `kernel` [k, k, I, O]: XLA's sums, in forms fast on CPUs too.

    Chosen by the shapes: `few_channels` makes what has few outputs (forward, and as the input gradient of a convolution
    of few inputs). On CPUs the input gradient of a strided convolution is made without inserted zeros where that wastes
    no products, or where the output is smaller than the kernel: there XLA takes the output for the kernel, which was up
    to 18 times slower. Kernel gradients and small maps are there what `products` names; `winograd` names what takes
    fewer products, and `paired_columns` what has few channels. `padding` is at most k - 1. Reverse mode only.
    """
    if few_channels.suits(kernel, stride):
        return few_channels.convolve(x, kernel, padding)
    if paired_columns.suits(x, kernel, stride, padding):
        return paired_columns.convolve(x, kernel, padding)
    if winograd.suits_forward(x, kernel, stride, padding):
        return winograd.convolve(x, kernel, padding)
    if products.suits_forward(x, kernel, stride, padding):
        return products.by_product(x, kernel, stride, padding)
    return _plain_convolution(x, kernel, stride, padding)


def _convolution_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolution(x, kernel, stride, padding), (x, kernel)


def _convolution_backward(
    stride: int, padding: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if winograd.suits_input_gradient(cotangent, kernel, stride, padding):
        by_input = winograd.input_gradient(cotangent, kernel, padding)
    elif products.suits_input_gradient(kernel, cotangent, stride):
        by_input = products.input_gradient(cotangent, kernel, (x.shape[1], x.shape[2]), stride, padding)
    elif stride == 1:
        by_input = convolution(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), 1, kernel.shape[0] - 1 - padding)
    elif _wants_no_zeros(cotangent, kernel, stride):
        by_input = _strided_input_gradient(cotangent, kernel, (x.shape[1], x.shape[2]), stride, padding)
    else:
        (by_input,) = jax.linear_transpose(lambda values: _plain_convolution(values, kernel, stride, padding), x)(
            cotangent
        )
    if few_channels.suits_kernel_gradient(kernel, stride):
        return by_input, few_channels.kernel_gradient(x, cotangent, kernel.shape[0], padding)
    if products.suits_kernel_gradient(kernel, cotangent):
        if winograd.suits_kernel_gradient(kernel, cotangent, stride):
            return by_input, winograd.kernel_gradient(x, cotangent, padding)
        return by_input, products.kernel_gradient(x, cotangent, kernel.shape[:2], stride, (padding, padding))
    (by_kernel,) = jax.linear_transpose(lambda taps: _plain_convolution(x, taps, stride, padding), kernel)(cotangent)
    return by_input, by_kernel


convolution.defvjp(_convolution_forward, _convolution_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def oblong(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
    """Stride-1 convolution [B, H, W, I] -> [B, h, w, O] with `kernel` [k, l, I, O], k other than l, by XLA's sums.

    The kernel's gradient is what `products` names, because XLA's on CPUs can take forty times as long (7x1 with a
    column of padding). `padding`: zeros above and below, left and right. Reverse mode only.
    """
    return _plain_oblong(x, kernel, padding)


def _plain_oblong(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
    return by_xla(x, kernel, 1, [(zeros, zeros) for zeros in padding])


def _oblong_forward(
    x: jax.Array, kernel: jax.Array, padding: tuple[int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return oblong(x, kernel, padding), (x, kernel)


def _oblong_backward(
    padding: tuple[int, int], saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    (by_input,) = jax.linear_transpose(lambda values: _plain_oblong(values, kernel, padding), x)(cotangent)
    if products.suits_kernel_gradient(kernel, cotangent):
        return by_input, products.kernel_gradient(x, cotangent, kernel.shape[:2], 1, padding)
    # Rows and columns that see padding alone say nothing of the kernel, and with them the output can be larger than the
    # input: XLA then takes a map for the kernel, on GPUs too.
    rows, columns = (max(0, zeros - size + 1) for zeros, size in zip(padding, kernel.shape[:2], strict=True))
    seen = cotangent[:, rows : cotangent.shape[1] - rows, columns : cotangent.shape[2] - columns]
    sides = padding[0] - rows, padding[1] - columns
    (by_kernel,) = jax.linear_transpose(lambda taps: _plain_oblong(x, taps, sides), kernel)(seen)
    return by_input, by_kernel


oblong.defvjp(_oblong_forward, _oblong_backward)


def flax_convolution(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **_: Any
) -> jax.Array:
    """`convolution` as `flax.linen.Conv` calls it, for square kernels, even padding, no dilation and no groups."""
    return convolution(x, kernel, strides[0], padding[0][0])


def pointwise(x: jax.Array, kernel: jax.Array, strides: Sequence[int]) -> jax.Array:
    """A 1x1 convolution [B, H, W, I] -> [B, h, w, O] with `kernel` [1, 1, I, O], as a matrix product of pixels.

    XLA's on CPUs takes 4 to 19 times as long for the kernel's gradient, and up to two and a half for the rest.
    """
    if max(strides) > 1:
        x = x[:, :: strides[0], :: strides[1]]
    # Pixels as rows: with more axes, XLA would copy the cotangent transposed for the kernel's gradient.
    return products.multiply(x.reshape(-1, x.shape[-1]), kernel[0, 0]).reshape(*x.shape[:3], kernel.shape[-1])


def flax_pointwise(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **_: Any
) -> jax.Array:
    """`pointwise` as `flax.linen.Conv` calls it, for 1x1 kernels without padding and groups."""
    return pointwise(x, kernel, strides)


def flax_oblong(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **_: Any
) -> jax.Array:
    """`oblong` as `flax.linen.Conv` calls it, for even padding, no stride, no dilation and no groups."""
    return oblong(x, kernel, (padding[0][0], padding[1][0]))
