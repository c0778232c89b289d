"""3x3 convolutions with 4/9 of the multiplications, which CPUs make faster where channels are many.

Winograd's F(2x2, 3x3) (Lavin & Gray 2016): a tile of 4x4 pixels d and a kernel g give 2x2 pixels as
A^T [(G g G^T) * (B^T d B)] A, where * multiplies 16 pairs and the rest are sums. Of all tiles and channels each of the
16 is one matrix product. The gradient by the kernel is that of the same formula, with as many multiplications. Its
coefficients are 0, 1/2 and 1, so that float32 loses about a digit. Of bfloat16 the sums are float32 and only what is
multiplied is rounded, which makes an error about twice that of a direct sum of bfloat16 products.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

from advcloak_jax.networks.products import product

OF_TILE = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
"""B^T."""
OF_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
"""G."""
TO_PIXELS = ((1, 1, 1, 0), (0, 1, -1, -1))
"""A^T."""
TILE, STEP = 4, 2

WORTHWHILE = 2**27
"""Multiply-adds of a whole batch's convolution from which on the transforms repay."""
CHANNELS = 64
"""In and out, from which on they do: a pixel's transforms cost the same for few and for many."""
GRADIENT_CHANNELS = 16
"""In, from which on the kernel's gradient is the faster one: what it is compared with copies every tap's pixels."""
SMALLEST_MAP, LARGEST_MAP = 144, 4096
"""Pixels of the output. Below, the kernel's transforms weigh too much; above, tiles and products, which take four times
the memory of the maps, leave the caches: 1.1 times as fast was not worth that memory."""

Grid = list[list[jax.Array]]


def suits_forward(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> bool:
    """Whether `convolve` is the faster form of a convolution.

    No where the number of images is unknown, as in exported networks, which go to other runtimes than XLA's; and not of
    a single image, of which the transforms seldom repay and a network's FLOP are counted (`training.flops`).
    """
    if not _possible(kernel, stride, x.dtype) or export.is_symbolic_dim(x.shape[0]) or x.shape[0] == 1:
        return False
    pixels = math.prod(side + 2 * padding - 2 for side in x.shape[1:3])
    multiplied = x.shape[0] * pixels * math.prod(kernel.shape)
    return min(kernel.shape[2:]) >= CHANNELS and SMALLEST_MAP <= pixels <= LARGEST_MAP and multiplied >= WORTHWHILE


def suits_input_gradient(cotangent: jax.Array, kernel: jax.Array, stride: int, padding: int) -> bool:
    """Whether `input_gradient` is the faster form of a convolution's gradient by its input: a convolution too."""
    return suits_forward(cotangent, kernel, stride, 2 - padding)


def suits_kernel_gradient(kernel: jax.Array, cotangent: jax.Array, stride: int) -> bool:
    """Whether `kernel_gradient` is a faster form than a product for each tap, where that is one at all."""
    return _possible(kernel, stride, cotangent.dtype) and kernel.shape[2] >= GRADIENT_CHANNELS


def _possible(kernel: jax.Array, stride: int, dtype: jnp.dtype) -> bool:
    known = dtype in (jnp.float32, jnp.bfloat16)
    return kernel.shape[0] == 3 and stride == 1 and known and jax.default_backend() == "cpu"


def convolve(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """Stride-1 convolution [B, H, W, I] -> [B, h, w, O] with `kernel` [3, 3, I, O] and zeros on every side."""
    return _convolve(x, kernel, padding, inputs_axis=0)


def input_gradient(cotangent: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """The gradient [B, H, W, I] by the input of a stride-1 convolution, from that by the output [B, h, w, O].

    It is a convolution with the kernel flipped, whose inputs are O. The products read the kernel's transforms as they
    lie, [I, O]: to turn it round first took as long as all else where kernels are large.
    """
    return _convolve(cotangent, kernel[::-1, ::-1], 2 - padding, inputs_axis=1)


def _convolve(x: jax.Array, kernel: jax.Array, padding: int, inputs_axis: int) -> jax.Array:
    """Convolution of x with a kernel whose inputs are the first (0) or the second (1) of its axes of channels."""
    batch, outputs = x.shape[0], kernel.shape[3 - inputs_axis]
    height, width = (side + 2 * padding - 2 for side in x.shape[1:3])
    rows, columns = _tiles((height, width))
    tiles = _transform(OF_TILE, _pixels_of_tiles(x, padding, rows, columns), x.dtype)
    weights = _transform(OF_KERNEL, [list(row) for row in kernel], x.dtype)
    products = [
        [
            product(tile.reshape(-1, tile.shape[-1]), weight, (1, inputs_axis))
            for tile, weight in zip(*pair, strict=True)
        ]
        for pair in zip(tiles, weights, strict=True)
    ]
    found = _transform(TO_PIXELS, products, x.dtype)
    joined = [jnp.concatenate(row, axis=-1).reshape(batch, rows, STEP * columns, outputs) for row in found]
    return jnp.stack(joined, axis=2).reshape(batch, STEP * rows, STEP * columns, outputs)[:, :height, :width]


def kernel_gradient(x: jax.Array, cotangent: jax.Array, padding: int) -> jax.Array:
    """The gradient [3, 3, I, O] by the kernel of a stride-1 convolution, from that by the output [B, h, w, O]."""
    rows, columns = _tiles(cotangent.shape[1:3])
    missing = [(0, STEP * count - side) for count, side in zip((rows, columns), cotangent.shape[1:3], strict=True)]
    pulls = jnp.pad(cotangent, ((0, 0), *missing, (0, 0)))
    of_pixels = [[pulls[:, i::STEP, j::STEP] for j in range(STEP)] for i in range(STEP)]
    tiles = _transform(OF_TILE, _pixels_of_tiles(x, padding, rows, columns), x.dtype)
    pulls_of_products = _transform(_transposed(TO_PIXELS), of_pixels, x.dtype)
    products = [
        [
            product(tile.reshape(-1, tile.shape[-1]), pull.reshape(-1, pull.shape[-1]), (0, 0))
            for tile, pull in zip(*pair, strict=True)
        ]
        for pair in zip(tiles, pulls_of_products, strict=True)
    ]
    return jnp.stack([jnp.stack(row) for row in _transform(_transposed(OF_KERNEL), products, x.dtype)])


def _tiles(size: Sequence[int]) -> list[int]:
    """Rows and columns of tiles of an output of some size."""
    return [-(-side // STEP) for side in size]


def _pixels_of_tiles(x: jax.Array, padding: int, rows: int, columns: int) -> Grid:
    """For each of a tile's 4x4 pixels that of every tile: [B, rows, columns, I] each, of x [B, H, W, I]."""
    sides = [
        (padding, STEP * count + 2 - have - padding) for count, have in zip((rows, columns), x.shape[1:3], strict=True)
    ]
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    parities = x.reshape(x.shape[0], rows + 1, STEP, columns + 1, STEP, x.shape[-1]).transpose(2, 4, 0, 1, 3, 5)

    def seen(i: int, j: int) -> jax.Array:
        return parities[i % STEP, j % STEP, :, i // STEP : i // STEP + rows, j // STEP : j // STEP + columns]

    return [[seen(i, j) for j in range(TILE)] for i in range(TILE)]


def _transform(matrix: Sequence[Sequence[float]], values: Grid, dtype: jnp.dtype) -> Grid:
    """matrix * values * matrix^T, written out as sums of arrays, in float32; what they come to in `dtype`."""
    exact = [[lax.convert_element_type(value, jnp.float32) for value in row] for row in values]
    once = [[_combine(row, column) for column in zip(*exact, strict=True)] for row in matrix]
    return [[lax.convert_element_type(_combine(row, of_row), dtype) for row in matrix] for of_row in once]


def _combine(factors: Sequence[float], values: Sequence[jax.Array]) -> jax.Array:
    """Sum of factors times arrays, of which not all factors are 0.

    A step is made of thousands of them, and those of jax.numpy take several times as long to trace as those of lax.
    """
    total: jax.Array | None = None
    for factor, value in zip(factors, values, strict=True):
        if factor:
            term = value if abs(factor) == 1 else lax.mul(value, np.float32(abs(factor)))
            if total is None:
                total = term if factor > 0 else lax.neg(term)
            else:
                total = lax.add(total, term) if factor > 0 else lax.sub(total, term)
    assert total is not None
    return total


def _transposed(matrix: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*matrix, strict=True))
