"""XLA's own convolution with the axes and the padding that every form here shares."""

from collections.abc import Sequence

import jax


def by_xla(x: jax.Array, kernel: jax.Array, stride: int, sides: Sequence[tuple[int, int]]) -> jax.Array:
    """Convolution [B, H, W, I] -> [B, h, w, O] with `kernel` [k, l, I, O].

    `sides`: zeros above and below, then left and right.
    """
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))
