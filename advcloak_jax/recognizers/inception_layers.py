"""What the Inception-ResNets share: convolution + BatchNorm, side-by-side branches, scaled residual blocks, pooling."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.errors import UserError
from advcloak_jax.networks.convolution import convolution, flax_oblong, flax_pointwise
from advcloak_jax.networks.layers import KAIMING_NORMAL, Dtype
from advcloak_jax.networks.norms import BatchNorm
from advcloak_jax.recognizers.layers import scaled_channels

EPSILON = 1e-3
"""Of every BatchNorm in these networks, as TensorFlow and MXNet have it by default."""


class Step(NamedTuple):
    """One convolution of a branch: channels at width 1, (rows, columns) of the kernel, zeros above and left, stride."""

    channels: int
    kernel: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    stride: int = 1


Branch = tuple[Step, ...]


def same(channels: int, rows: int, columns: int) -> Step:
    """A step that keeps the map's size."""
    return Step(channels, (rows, columns), (rows // 2, columns // 2))


def halving(channels: int) -> Step:
    """A 3x3 step of stride 2 without padding: H -> (H - 1) // 2."""
    return Step(channels, (3, 3), stride=2)


def channels_at(channels: int, width: float) -> int:
    """`scaled_channels`, but exactly the published number at width 1 (one of them is no multiple of 8)."""
    return channels if width == 1 else scaled_channels(channels, width)


def check_size(images: jax.Array, least: int, name: str) -> None:
    """Raises UserError for images [B, H, W, 3] that unpadded layers would use up before the last map."""
    height, width = images.shape[1:3]
    if min(height, width) < least:
        raise UserError(
            f"{name} reads images of at least {least}x{least} pixels, not {height}x{width}: use larger ones."
        )


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of every 3x3 window, stride 2, no padding: [B, H, W, C] -> [B, (H - 1) // 2, (W - 1) // 2, C].

    As maxima of shifted rows, then columns: XLA scatters the gradient of a pooling window by window, which is slow.
    Equal values share the gradient.
    """
    for axis in (1, 2):
        count = (x.shape[axis] - 1) // 2
        shifted = [jax.lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis) for i in range(3)]
        x = functools.reduce(jnp.maximum, shifted)
    return x


def _square_convolution(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **_: Any
) -> jax.Array:
    """`convolution` as `flax.linen.Conv` calls it, for odd square kernels.

    Without padding or stride it is cut out of the padded one: on CPUs, XLA takes 2 to 5 times less on large maps.
    """
    stride, zeros, border = strides[0], padding[0][0], kernel.shape[0] // 2
    if stride == 1 and zeros == 0:
        return convolution(x, kernel, 1, border)[:, border:-border, border:-border]
    return convolution(x, kernel, stride, zeros)


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm and, unless `activate` is off, ReLU. `channels` are final, not scaled."""

    channels: int
    kernel: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    stride: int = 1
    activate: bool = True
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, I] -> [B, h, w, channels], in `dtype`; h = (H + 2 * padding - kernel) // stride + 1."""
        x = nn.Conv(
            self.channels,
            self.kernel,
            strides=self.stride,
            padding=[(zeros, zeros) for zeros in self.padding],
            use_bias=False,
            kernel_init=KAIMING_NORMAL,
            conv_general_dilated=self._form(),
            dtype=self.dtype,
            name="conv",
        )(x)
        x = BatchNorm(epsilon=EPSILON, axis_name=self.axis_name, name="norm")(x, train=train)
        return nn.relu(x) if self.activate else x

    def _form(self) -> Callable[..., jax.Array] | None:
        """The fast one for these sizes; None, XLA's, where there is none."""
        rows, columns = self.kernel
        if rows != columns:
            return flax_oblong if self.stride == 1 else None
        if rows == 1:
            return flax_pointwise if self.padding == (0, 0) else None
        return _square_convolution if self.padding[0] == self.padding[1] else None


class Branches(nn.Module):
    """Branches of convolutions that read the same map, their outputs side by side as channels.

    Branch b's step i is called branch_<b>_<i>. `pooled` appends the input's `max_pool`.
    """

    branches: tuple[Branch, ...]
    pooled: bool = False
    width: float = 1.0
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, I] -> [B, h, w, sum of the branches' last channels (+ I)]."""
        found = []
        for b, branch in enumerate(self.branches):
            y = x
            for i, step in enumerate(branch):
                channels = channels_at(step.channels, self.width)
                y = ConvNorm(channels, *step[1:], dtype=self.dtype, axis_name=self.axis_name, name=f"branch_{b}_{i}")(
                    y, train=train
                )
            found.append(y)
        if self.pooled:
            found.append(max_pool(x))
        return jnp.concatenate(found, axis=-1)


class ResidualBlock(nn.Module):
    """x + scale * projection(branches(x)), then ReLU unless `activate` is off (Szegedy et al. 2017, section 3.3).

    The projection is a 1x1 convolution to the channels of x, with a BatchNorm if `normalise`, else with a bias.
    """

    branches: tuple[Branch, ...]
    scale: float
    activate: bool = True
    normalise: bool = False
    width: float = 1.0
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> the same shape."""
        y = Branches(self.branches, False, self.width, self.dtype, self.axis_name, name="mixed")(x, train=train)
        if self.normalise:
            y = ConvNorm(x.shape[-1], activate=False, dtype=self.dtype, axis_name=self.axis_name, name="project")(
                y, train=train
            )
        else:
            y = nn.Conv(
                x.shape[-1],
                (1, 1),
                kernel_init=KAIMING_NORMAL,
                conv_general_dilated=flax_pointwise,
                dtype=self.dtype,
                name="project",
            )(y)
        y = y * self.scale + x
        return nn.relu(y) if self.activate else y
