"""Pixels and masks: scales, Eq. 2, Eq. 3, mask strength, and what is finally written to the protected file.

Works on NumPy arrays and, inside or outside `jax.jit`, on JAX arrays; the result is of the same kind.
"""

from typing import TypeVar

import jax
import numpy as np

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)

PAPER_IMAGE_SIZE = 112
"""Side in pixels of the images that the paper's mask norm of 1200 grey levels refers to."""

_TINY = 1e-12


def to_unit(images: ArrayT) -> ArrayT:
    """uint8 images [..., H, W, C] -> float32 in [0, 1]."""
    return images.astype(np.float32) / 255


def aggregate(masks: ArrayT) -> ArrayT:
    """Masks [..., N, H, W, C] of each person's N images -> the person's one mask [..., H, W, C], their mean (Eq. 2)."""
    return masks.mean(axis=-4)


def apply_mask(images: ArrayT, mask: ArrayT) -> ArrayT:
    """X' = clip(X + mask, 0, 1) (Eq. 3); images [..., H, W, C] in [0, 1], mask broadcastable to them, same scale.

    For one mask per person (images [P, N, H, W, C]) pass `mask[:, None]`. In-graph, without rounding; files are made by
    `protect`.
    """
    return (images + mask).clip(0, 1)


def l2_norm(mask: ArrayT) -> ArrayT:
    """L2 norm over all H*W*C values of each mask [..., H, W, C] -> [...], on the mask's own scale.

    Its gradient is not finite at a zero mask: training uses `losses.norm_loss`.
    """
    return (mask * mask).sum(axis=(-3, -2, -1)) ** 0.5


def rescale(mask: ArrayT, grey_levels: float | jax.Array) -> ArrayT:
    """Scale each mask [..., H, W, C] to the L2 norm `grey_levels` / 255; a zero mask stays zero."""
    norm = l2_norm(mask)[..., None, None, None]
    return mask * (grey_levels / 255 / norm.clip(_TINY))


def mask_norm_at(image_size: int, grey_levels: float = 1200.0) -> float:
    """The L2 norm in grey levels that is as strong per pixel at `image_size` as `grey_levels` is at 112 x 112.

    The norm sums image_size^2 * 3 squares, so at equal root-mean-square strength it grows with the side: 1200 at 112 is
    6.2 grey levels root mean square, which is 600 at 56.
    """
    return grey_levels * image_size / PAPER_IMAGE_SIZE


def protect(images: ArrayT, mask: ArrayT) -> ArrayT:
    """Add a mask (scale [0, 1], broadcastable) to uint8 images [..., H, W, C]: the images that are saved and tested.

    As published: the mask is added in float on the 0..255 scale, the sum clipped, then truncated (not rounded). Adding
    on that scale keeps an all-zero mask from changing any pixel, which uint8 -> [0, 1] -> uint8 with truncation would.
    """
    return (images.astype(np.float32) + mask.astype(np.float32) * 255).clip(0, 255).astype(np.uint8)
