"""The decoder's transposed convolution, of stride 2 and kernel 4, without inserted zeros."""

import jax
import jax.numpy as jnp

from advcloak_jax.networks import products
from advcloak_jax.networks.plain import by_xla

SIDES = ((1, 1), (1, 1))
"""A pixel of zeros on every side."""


def upsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution of stride 2, kernel 4, PyTorch's padding 1: [B, H, W, I] -> [B, 2H, 2W, O].

    `kernel` [4, 4, I, O] is laid out as `flax.linen.ConvTranspose` (and `jax.lax.conv_transpose`) has it, spatially
    flipped against PyTorch. An output pixel sees 2 x 2 of the kernel's taps, which ones depends on its parity: so
    one 2x2 convolution makes the four parities as 4*O channels and depth-to-space interleaves them. Reverse mode only.
    """
    if jax.default_backend() != "cpu":
        return _by_convolution(x, kernel)
    return _by_both(x, kernel) if x.dtype == jnp.float32 else _by_product(x, kernel)


def _by_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The 2x2 convolution as one matrix product of the four shifted inputs: XLA's kernel gradients are slow on CPUs.

    Forward and gradient together took a fiftieth of `jax.lax.conv_transpose`'s time there. Of bfloat16 CPUs multiply
    matrices faster than they convolve.
    """
    batch, height, width, inputs = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height + 1, j : j + width + 1] for i in range(2) for j in range(2)]
    # Pixels as rows: with more axes, XLA would copy the cotangent transposed for the kernel's gradient.
    taps = _parities(kernel).reshape(4 * inputs, -1)
    parities = products.multiply(jnp.concatenate(shifted, axis=-1).reshape(-1, 4 * inputs), taps)
    return _interleave(parities.reshape(batch, height + 1, width + 1, -1))


@jax.custom_vjp
def _by_both(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's convolution, which reads the input once, with the product's gradients."""
    return _forward(x, kernel)[0]


def _backward_by_product(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    _, pull_back = jax.vjp(_by_product, *saved)
    by_input, by_kernel = pull_back(cotangent)
    return by_input, by_kernel


@jax.custom_vjp
def _by_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """On GPUs each part is one of the library's convolutions that XLA knows: the gradients are of one with stride 2.

    XLA takes `jax.lax.conv_transpose` for a convolution of zeros between pixels, and the kernel gradient of the 2x2
    convolution, whose output is larger than its input, for one with images as channels and a map as the kernel.
    """
    return _forward(x, kernel)[0]


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _interleave(by_xla(x, _parities(kernel), 1, SIDES)), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved

    def turned(kernel: jax.Array) -> jax.Array:
        return kernel[::-1, ::-1].swapaxes(2, 3)

    def down(kernel: jax.Array) -> jax.Array:
        return by_xla(cotangent, kernel, 2, SIDES)

    (by_kernel,) = jax.linear_transpose(down, turned(kernel))(x)
    return down(turned(kernel)), turned(by_kernel)


_by_both.defvjp(_forward, _backward_by_product)
_by_convolution.defvjp(_forward, _backward)


def _parities(kernel: jax.Array) -> jax.Array:
    """Kernel [4, 4, I, O] as that of the 2x2 convolution, [2, 2, I, 4 * O]."""
    *_, inputs, outputs = kernel.shape
    # Row 2t + r of the kernel is tap t of output parity 1 - r.
    taps = kernel.reshape(2, 2, 2, 2, inputs, outputs)[:, ::-1, :, ::-1]
    return taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, inputs, 4 * outputs)


def _interleave(parities: jax.Array) -> jax.Array:
    """Depth to space: [B, H + 1, W + 1, 4 * O] -> [B, 2H, 2W, O], without the outermost pixels."""
    batch, rows, columns, channels = parities.shape
    pixels = parities.reshape(batch, rows, columns, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(batch, 2 * rows, 2 * columns, channels // 4)[:, 1:-1, 1:-1]
