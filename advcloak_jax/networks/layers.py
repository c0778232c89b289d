"""What the networks share: PyTorch's initialisers, its padding and its convolutions."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.convolution import flax_convolution
from advcloak_jax.networks.upsampling import upsample_conv

Dtype = Any
Initializer = Callable[..., jax.Array]

# Kaiming normal, fan-in, gain sqrt(2).
KAIMING_NORMAL: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# The same for the kernel [kh, kw, in, out] of a transposed convolution, whose fan-in PyTorch takes as out * kh * kw.
KAIMING_NORMAL_TRANSPOSED: Initializer = nn.initializers.variance_scaling(
    2.0, "fan_in", "normal", in_axis=-1, out_axis=-2
)
# PyTorch's default for convolutions: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
TORCH_UNIFORM: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Initializer:
    """PyTorch's default for the bias of a layer with `fan_in` inputs per output: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    def initialise(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)

    return initialise


def reflect_pad(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H + 2, W + 2, C] with one reflected pixel on every side; H and W at least 2.

    On a CPU rows and columns are put together. A GPU would write the map for each of the two; as a sum of zero-padded
    parts it becomes one kernel, with what made the map and what follows.
    """
    if jax.default_backend() == "cpu":
        return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    for axis in (1, 2):
        length = x.shape[axis]
        first, last = (jax.lax.slice_in_dim(x, at, at + 1, axis=axis) for at in (1, length - 2))
        x = _zeros(x, axis, 1, 1) + _zeros(first, axis, 0, length + 1) + _zeros(last, axis, length + 1, 0)
    return x


def _zeros(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """x with so many zeros before and after it on one axis."""
    return jnp.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)])


def conv(
    channels: int,
    kernel: int,
    *,
    in_channels: int,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    kernel_init: Initializer = KAIMING_NORMAL,
    dtype: Dtype = jnp.float32,
    name: str,
) -> nn.Conv:
    """A square convolution padded as PyTorch pads (the same number of zeros on every side), with PyTorch's bias."""
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=stride,
        padding=[(padding, padding)] * 2,
        use_bias=bias,
        kernel_init=kernel_init,
        bias_init=torch_bias(in_channels * kernel * kernel),
        conv_general_dilated=flax_convolution,
        dtype=dtype,
        name=name,
    )


class UpsampleConv(nn.Module):
    """`upsample_conv` with its kernel, no bias."""

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, I] -> [B, 2H, 2W, channels], in `dtype`."""
        shape = (4, 4, x.shape[-1], self.channels)
        kernel = self.param("kernel", KAIMING_NORMAL_TRANSPOSED, shape, jnp.float32)
        return upsample_conv(x.astype(self.dtype), kernel.astype(self.dtype))
