"""What a recogniser wants its pixels to be: scale, channel order, window and size. Differentiable, in-graph."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Three = tuple[float, float, float]


class Convention(NamedTuple):
    """Input of a recogniser: (p - mean) / std of p in 0..255, for each channel in the order the network gets them.

    channels: "rgb" or "bgr". size: (height, width) of the network's input; None: the size of the faces it is given.
    """

    mean: Three = (127.5, 127.5, 127.5)
    std: Three = (127.5, 127.5, 127.5)
    channels: str = "rgb"
    size: tuple[int, int] | None = None


def prepare(images: jax.Array, convention: Convention, dtype: jnp.dtype | type = jnp.float32) -> jax.Array:
    """Faces [B, H, W, 3] RGB in [0, 1] to what the network reads, [B, h, w, 3] in `dtype`.

    The largest centred window of the input's aspect (112 x 96 takes columns 8..103 of 112) is resized, where its size
    differs, by antialiased cubic interpolation (Pillow's bicubic). Raises ValueError for an unknown channel order.
    """
    if convention.channels not in ("rgb", "bgr"):
        raise ValueError(f"channels '{convention.channels}': choose 'rgb' or 'bgr'.")
    x = images.astype(jnp.float32)
    if convention.size is not None:
        x = _fit(x, *convention.size)
    if convention.channels == "bgr":
        x = x[..., ::-1]
    return ((x * 255.0 - jnp.asarray(convention.mean)) / jnp.asarray(convention.std)).astype(dtype)


def describe(convention: Convention) -> str:
    """One line about what a network reads."""

    def numbers(values: Three) -> str:
        return f"{values[0]:g}" if len(set(values)) == 1 else "/".join(f"{value:g}" for value in values)

    size = "any size" if convention.size is None else "{}x{}".format(*convention.size)
    return f"{size} {convention.channels.upper()}, (p - {numbers(convention.mean)}) / {numbers(convention.std)}"


def _fit(images: jax.Array, height: int, width: int) -> jax.Array:
    """The largest centred window of aspect height : width, resized to it."""
    scale = min(images.shape[1] / height, images.shape[2] / width)
    top, left = (images.shape[1] - height * scale) / 2, (images.shape[2] - width * scale) / 2
    if scale == 1:  # whole pixels, never interpolated
        return images[:, int(top) : int(top) + height, int(left) : int(left) + width]
    shape = (images.shape[0], height, width, images.shape[3])
    factor, shift = jnp.full(2, 1 / scale), -jnp.asarray([top, left]) / scale
    return jax.image.scale_and_translate(images, shape, (1, 2), factor, shift, "cubic", antialias=True)
