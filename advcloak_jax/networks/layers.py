"""What the networks share: PyTorch's batch norm and initialisers, instance norm, the fast transposed convolution."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
        dtype=dtype,
        name=name,
    )


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last, with PyTorch's arithmetic and float32 statistics.

    `momentum` is PyTorch's: the weight of the NEW batch in the running statistics (Flax's is one minus it). The batch
    is normalised by its biased variance, the running variance takes the unbiased one. With `axis_name` the statistics
    are those of the whole batch over that axis's devices (PyTorch's SyncBatchNorm).
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[..., C] -> [..., C], in the dtype of `x`. In training updates the collection "batch_stats"."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        values = x.astype(jnp.float32)
        mean, var = running_mean.value, running_var.value
        if train:
            mean, var, count = self._batch_statistics(values)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        return ((values - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias).astype(x.dtype)

    def _batch_statistics(self, values: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Mean [C], biased variance [C] and number of values per channel, over every device of the axis."""
        axes = tuple(range(values.ndim - 1))
        count = values.size // values.shape[-1]
        mean = values.mean(axes)
        var = jnp.square(values - mean).mean(axes)
        # The axis is not bound while the variables are made.
        if self.axis_name is None or self.is_initializing():
            return mean, var, count
        # Combined from centred parts: E[x^2] - E[x]^2 would cancel.
        overall = jax.lax.pmean(mean, self.axis_name)
        var = jax.lax.pmean(var + jnp.square(mean - overall), self.axis_name)
        return overall, var, count * jax.lax.axis_size(self.axis_name)


def instance_norm(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Each image's channels [B, H, W, C] to mean 0 and variance 1 over H and W, without affine, in float32 inside."""
    values = x.astype(jnp.float32)
    values = values - values.mean((1, 2), keepdims=True)
    var = jnp.square(values).mean((1, 2), keepdims=True)
    return (values * jax.lax.rsqrt(var + epsilon)).astype(x.dtype)


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
    parities = jnp.concatenate(shifted, axis=-1) @ taps
    parities = parities.reshape(batch, height + 1, width + 1, 2, 2, outputs)
    full = parities.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height + 2, 2 * width + 2, outputs)
    return full[:, 1:-1, 1:-1]


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
