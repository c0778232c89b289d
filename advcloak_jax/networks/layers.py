"""What the networks share: PyTorch's initialisers and convolutions, batch norm, instance norm, layer norm."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.convolution import flax_convolution, upsample_conv

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
        conv_general_dilated=flax_convolution,
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
        if self.axis_name is None or self.is_initializing() or jax.lax.axis_size(self.axis_name) == 1:
            return mean, var, count
        # Combined from centred parts, in two exchanges: E[x^2] - E[x]^2 would cancel. One exchange, with means counted
        # from the running one, was tried: it lost digits wherever a batch is far from that.
        overall = jax.lax.pmean(mean, self.axis_name)
        var = jax.lax.pmean(var + jnp.square(mean - overall), self.axis_name)
        return overall, var, count * jax.lax.axis_size(self.axis_name)


def instance_norm(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Each image's channels [B, H, W, C] to mean 0 and variance 1 over H and W, without affine, in float32 inside."""
    values = x.astype(jnp.float32)
    values = values - values.mean((1, 2), keepdims=True)
    var = jnp.square(values).mean((1, 2), keepdims=True)
    return (values * jax.lax.rsqrt(var + epsilon)).astype(x.dtype)


@jax.custom_vjp
def _affine(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """x * scale + bias for x [B, ...] and one scale and bias [...] per element, float32."""
    return x * scale + bias


def _affine_forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _affine(x, scale, bias), (x, scale)


def _affine_backward(
    saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale = saved

    def over_batch(values: jax.Array) -> jax.Array:
        # As a product with ones: XLA's sum over a leading axis took ten times as long on CPUs.
        ones = jnp.ones((values.shape[0],), values.dtype)
        summed = jnp.dot(ones, values.reshape(values.shape[0], -1), precision=jax.lax.Precision.HIGHEST)
        return summed.reshape(scale.shape)

    return cotangent * scale, over_batch(cotangent * x), over_batch(cotangent)


_affine.defvjp(_affine_forward, _affine_backward)


class LayerNorm(nn.Module):
    """Layer norm over all axes but the first, with a weight and a bias per element, in float32 inside."""

    scale_init: Initializer = nn.initializers.ones
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C], in `dtype`."""
        scale = self.param("scale", self.scale_init, x.shape[1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[1:], jnp.float32)
        axes = tuple(range(1, x.ndim))
        values = x.astype(jnp.float32)
        values = values - values.mean(axes, keepdims=True)
        var = jnp.square(values).mean(axes, keepdims=True)
        return _affine(values * jax.lax.rsqrt(var + self.epsilon), scale, bias).astype(self.dtype)


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
