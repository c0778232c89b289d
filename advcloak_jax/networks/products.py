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
CHANNELS_PER_ROW, CHANNELS_PER_ROW_BFLOAT16 = 16, 4
"""Channels in for each row of the output from which on `by_product` is faster: fewer of bfloat16, which it copies and
multiplies in half the time where XLA's convolution does not."""


def product(a: jax.Array, b: jax.Array, over: tuple[int, int] = (1, 0)) -> jax.Array:
    """The product of two matrices over axis `over[0]` of a and `over[1]` of b, in float32 or more.

    What is left of a comes first. On CPUs that have bfloat16, XLA multiplies it at twice float32's rate, but only if
    the sums stay float32 and a is read along its rows. Else a is turned round in memory here, in two blocks: XLA would
    take a plain transpose back into the product.
    """
    if a.dtype == jnp.bfloat16 and over[0] == 0 and a.shape[0] % 2 == 0:
        a = a.reshape(2, -1, a.shape[1]).transpose(2, 0, 1).reshape(a.shape[1], -1)
        over = (1, over[1])
    shared = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(a, b, shared, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b for pixels [n, I] and a kernel [I, O], in the dtype of a; in the forms of `product` where they are faster.

    Those are for reverse mode only.
    """
    if a.dtype == jnp.bfloat16 and jax.default_backend() == "cpu":
        return _multiply(a, b)
    return a @ b


@jax.custom_vjp
def _multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    return product(a, b).astype(a.dtype)


def _multiply_forward(a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _multiply(a, b), (a, b)


def _multiply_backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = saved
    return product(cotangent, b, (1, 1)).astype(a.dtype), product(a, cotangent, (0, 0)).astype(b.dtype)


_multiply.defvjp(_multiply_forward, _multiply_backward)


def suits_forward(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> bool:
    """Whether `by_product` is the faster form of a convolution."""
    height, width = ((pixels + 2 * padding - kernel.shape[0]) // stride + 1 for pixels in x.shape[1:3])
    per_row = CHANNELS_PER_ROW_BFLOAT16 if x.dtype == jnp.bfloat16 else CHANNELS_PER_ROW
    return _worthwhile(kernel, (height, width)) and kernel.shape[2] >= per_row * max(height, width)


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


def _columns(x: jax.Array, size: Pair, stride: int, padding: int) -> jax.Array:
    """What each output pixel sees of x [B, H, W, I], all taps' channels: [B, h, w, k * k * I]."""
    taps = [tap for row in _taps(x, size, stride, (padding, padding)) for tap in row]
    return jnp.concatenate(taps, axis=-1)


def by_product(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution [B, H, W, I] -> [B, h, w, O] with `kernel` [k, k, I, O]: one product of all taps' channels."""
    seen = _columns(x, kernel.shape[:2], stride, padding)
    found = product(seen.reshape(-1, seen.shape[-1]), kernel.reshape(-1, kernel.shape[-1]))
    return found.reshape(*seen.shape[:3], -1).astype(x.dtype)


def input_gradient(
    cotangent: jax.Array, kernel: jax.Array, size: tuple[int, int], stride: int, padding: int
) -> jax.Array:
    """The gradient [B, H, W, I] by the input of size (H, W), from that by the output [B, h, w, O]: one product.

    It gives every tap's part, k * k * I channels; the parts are then added where their pixels are.
    """
    *pixels, outputs = cotangent.shape
    parts = product(cotangent.reshape(-1, outputs), kernel.reshape(-1, outputs), (1, 1)).reshape(*pixels, -1)
    x = jax.ShapeDtypeStruct((cotangent.shape[0], *size, kernel.shape[2]), parts.dtype)
    (found,) = jax.linear_transpose(lambda values: _columns(values, kernel.shape[:2], stride, padding), x)(parts)
    return found.astype(cotangent.dtype)


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
    products = [product(seen.reshape(-1, seen.shape[-1]), flat, (0, 0)) for row in rows for seen in row]
    return jnp.concatenate(products).reshape(*size, inputs, outputs).astype(x.dtype)
