"""Convolutions in forms that are fast on CPUs too: XLA's sums, chosen by their shapes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advcloak_jax.networks import paired_columns, products, winograd


def _plain_convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution [B, H, W, I] -> [B, h, w, O] with `kernel` [k, k, I, O] and zeros on every side, by XLA.

    On CPUs a column more is made on both sides, and cut, where there is no padding: without any, XLA's convolution and
    its kernel gradient took three times as long (256 channels, 30x30).
    """
    more = int(padding == 0 and stride == 1 and kernel.shape[0] > 2 and jax.default_backend() == "cpu")
    sides = [(padding, padding), (padding + more,) * 2]
    made = jax.lax.conv_general_dilated(x, kernel, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return made[:, :, more : made.shape[2] - more]


def _to_few_channels(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """Stride-1 convolution for an O of a few: one [1, k] convolution makes every kernel row's part as k*O channels.

    The rows' parts are then added, each shifted by its row. XLA on CPUs leaves most of its vector lanes idle when a
    convolution has 3 output channels: the 7x7 one takes a quarter of its time this way.
    """
    rows, columns, inputs, outputs = kernel.shape
    by_row = kernel.transpose(1, 2, 0, 3).reshape(1, columns, inputs, rows * outputs)
    parts = jax.lax.conv_general_dilated(
        x, by_row, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    height = parts.shape[1] - rows + 1
    shifted = [parts[:, i : i + height, :, i * outputs : (i + 1) * outputs] for i in range(rows)]
    return functools.reduce(jnp.add, shifted)


def _strided_input_gradient(
    cotangent: jax.Array, kernel: jax.Array, size: tuple[int, int], stride: int, padding: int
) -> jax.Array:
    """The gradient [B, H, W, I] by the input of size (H, W), from that by the output [B, h, w, O].

    As in `upsample_conv`: a stride-1 convolution makes the pixels of each remainder modulo `stride` as channels and
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
    found = jax.lax.conv_general_dilated(cotangent, weights, (1, 1), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    found = found.reshape(batch, *blocks, stride, stride, inputs).transpose(0, 1, 3, 2, 4, 5)
    found = found.reshape(batch, blocks[0] * stride, blocks[1] * stride, inputs)
    return found[:, padding : padding + size[0], padding : padding + size[1]]


def _few_channels_kernel_gradient(x: jax.Array, cotangent: jax.Array, size: int, padding: int) -> jax.Array:
    """The gradient [k, k, I, O] by the kernel of a stride-1 convolution of x [B, H, W, I], from that by [B, h, w, O].

    One matrix product of the pixels with the cotangent's k * k shifts as channels: few, because O is.
    """
    batch, height, width, inputs = x.shape
    side = size - 1 - padding
    padded = jnp.pad(cotangent, ((0, 0), (side, side), (side, side), (0, 0)))
    taps = range(size - 1, -1, -1)
    columns = jnp.concatenate([padded[:, :, j : j + width] for j in taps], axis=-1)
    shifts = jnp.concatenate([columns[:, i : i + height] for i in taps], axis=-1)
    found = products.product(x.reshape(-1, inputs), shifts.reshape(batch * height * width, -1), (0, 0))
    return found.reshape(inputs, size, size, -1).transpose(1, 2, 0, 3).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution [B, H, W, I] -> [B, h, w, O] with `kernel` [k, k, I, O]: XLA's sums, in forms fast on CPUs too.

    Chosen by the shapes: at most 4 output channels without stride are made row by row (forward, and as the input
    gradient of a convolution of at most 4 input channels), and the input gradient of a strided convolution is made
    without inserted zeros where that wastes no products, or where the output is smaller than the kernel: there XLA
    takes the output for the kernel, which was up to 18 times slower. The kernel's gradient of a convolution from 32 or
    more channels to at most 4 is a matrix product, and so on CPUs is what `products` names; `winograd` names what takes
    fewer products there, and `paired_columns` what has few channels. `padding` is at most k - 1. Reverse mode only.
    """
    if stride == 1 and kernel.shape[-1] <= 4:
        return _to_few_channels(x, kernel, padding)
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
    elif kernel.shape[0] % stride == 0 or min(cotangent.shape[1:3]) < kernel.shape[0]:
        by_input = _strided_input_gradient(cotangent, kernel, (x.shape[1], x.shape[2]), stride, padding)
    else:
        (by_input,) = jax.linear_transpose(lambda values: _plain_convolution(values, kernel, stride, padding), x)(
            cotangent
        )
    if stride == 1 and kernel.shape[-1] <= 4 and kernel.shape[2] >= 32:
        return by_input, _few_channels_kernel_gradient(x, cotangent, kernel.shape[0], padding)
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
    sides = [(zeros, zeros) for zeros in padding]
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))


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
    (by_kernel,) = jax.linear_transpose(lambda taps: _plain_oblong(x, taps, padding), kernel)(cotangent)
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


def upsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution of stride 2, kernel 4, PyTorch's padding 1: [B, H, W, I] -> [B, 2H, 2W, O].

    `kernel` [4, 4, I, O] is laid out as `flax.linen.ConvTranspose` (and `jax.lax.conv_transpose`) has it, spatially
    flipped against PyTorch. An output pixel sees 2 x 2 of the kernel's taps, which ones depends on its parity: so
    one 2x2 convolution makes the four parities as 4*O channels and depth-to-space interleaves them. That convolution
    is written as one matrix product of the four shifted inputs, because XLA's kernel gradients of convolutions are
    slow on CPUs: forward and gradient together took a fiftieth of `jax.lax.conv_transpose`'s time.
    """
    batch, height, width, inputs = x.shape
    outputs = kernel.shape[-1]
    # Row 2t + r of the kernel is tap t of output parity 1 - r.
    taps = kernel.reshape(2, 2, 2, 2, inputs, outputs)[:, ::-1, :, ::-1]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(4 * inputs, 4 * outputs)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height + 1, j : j + width + 1] for i in range(2) for j in range(2)]
    # Pixels as rows: with more axes, XLA would copy the cotangent transposed for the kernel's gradient.
    parities = products.multiply(jnp.concatenate(shifted, axis=-1).reshape(-1, 4 * inputs), taps)
    parities = parities.reshape(batch, height + 1, width + 1, 2, 2, outputs)
    full = parities.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height + 2, 2 * width + 2, outputs)
    return full[:, 1:-1, 1:-1]
