"""Batch norm, instance norm and layer norm: statistics in one reading of a map, gradients in closed form.

Differentiated step by step, a norm's gradient reads and writes float32 maps between its sums. In closed form it is one
reading for all sums and one for the rest, with nothing kept but the map, its means and its deviations. Where a batch
norm is over several devices, each direction is one exchange.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax.networks.layers import Dtype, Initializer

Axes = tuple[int, ...]
Saved = tuple[jax.Array, ...]
FROZEN = "frozen"
"""Collection for what a layer makes of variables alone: made where it is mutable, read where it is given."""


def moments(values: jax.Array, axes: Axes) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of float32 values over `axes`, which stay with length 1, from one reading.

    Counted from the value in the middle, for E[x^2] - E[x]^2 cancels where the mean is many deviations from the origin.
    """
    origin = values
    for axis in axes:
        origin = jax.lax.slice_in_dim(origin, values.shape[axis] // 2, values.shape[axis] // 2 + 1, axis=axis)
    centred = values - origin
    mean, square = centred.mean(axes, keepdims=True), jnp.square(centred).mean(axes, keepdims=True)
    return mean + origin, jnp.maximum(square - jnp.square(mean), 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def standardise(x: jax.Array, axes: Axes, epsilon: float) -> jax.Array:
    """x to mean 0 and variance 1 over `axes`, in float32. Reverse mode only."""
    return _standardise_forward(x, axes, epsilon)[0]


def _standardise_forward(x: jax.Array, axes: Axes, epsilon: float) -> tuple[jax.Array, Saved]:
    values = x.astype(jnp.float32)
    mean, var = moments(values, axes)
    inverse = jax.lax.rsqrt(var + epsilon)
    return (values - mean) * inverse, (x, mean, inverse)


def _standardise_backward(axes: Axes, epsilon: float, saved: Saved, cotangent: jax.Array) -> tuple[jax.Array]:
    x, mean, inverse = saved
    standard = (x.astype(jnp.float32) - mean) * inverse
    along_mean = cotangent.mean(axes, keepdims=True)
    along_deviation = (cotangent * standard).mean(axes, keepdims=True)
    return (((cotangent - along_mean - standard * along_deviation) * inverse).astype(x.dtype),)


standardise.defvjp(_standardise_forward, _standardise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def batch_normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None, apart: int = 0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [..., C] by the statistics of its channels: the result in x's dtype, their mean and biased variance.

    These are [C], or [S, C] where the first `apart` axes [S] count batches, each with statistics of its own.
    `axis_name`: the axis over whose devices the statistics are. Gradients of `scale` and `bias` [C] are of the own
    images. Reverse mode only; mean and variance have no gradient.
    """
    return _batch_forward(x, scale, bias, epsilon, axis_name, apart)[0]


def _batch_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None, apart: int
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Saved]:
    values = x.astype(jnp.float32)
    mean, var = moments(values, tuple(range(apart, x.ndim - 1)))
    if axis_name is not None:
        # Every device's own moments, in one exchange. Summed over devices instead, they would need two, one after the
        # other: E[x^2] - E[x]^2 cancels, and there is no origin that all devices know.
        means, variances = jax.lax.all_gather(jnp.stack([mean, var]), axis_name, axis=1)
        mean = means.mean(0)
        var = (variances + jnp.square(means - mean)).mean(0)
    inverse = jax.lax.rsqrt(var + epsilon)
    made = ((values - mean) * (inverse * scale) + bias).astype(x.dtype)
    of_batches = (*x.shape[:apart], x.shape[-1])
    return (made, mean.reshape(of_batches), var.reshape(of_batches)), (x, scale, mean, inverse)


def _batch_backward(
    epsilon: float, axis_name: str | None, apart: int, saved: Saved, cotangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = saved
    axes = tuple(range(apart, x.ndim - 1))
    cotangent = cotangents[0].astype(jnp.float32)
    standard = (x.astype(jnp.float32) - mean) * inverse
    sums = jnp.stack([cotangent.sum(axes, keepdims=True), (cotangent * standard).sum(axes, keepdims=True)])
    means = sums * (mean.size / x.size)
    along_mean, along_deviation = means if axis_name is None else jax.lax.pmean(means, axis_name)
    by_input = (cotangent - along_mean - standard * along_deviation) * (inverse * scale)
    by_bias, by_scale = sums.reshape(2, -1, x.shape[-1]).sum(1)
    return by_input.astype(x.dtype), by_scale, by_bias


batch_normalise.defvjp(_batch_forward, _batch_backward)


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last, with PyTorch's arithmetic and float32 statistics.

    `momentum` is PyTorch's: the weight of the NEW batch in the running statistics (Flax's is one minus it). The batch
    is normalised by its biased variance, the running variance takes the unbiased one. With `axis_name` the statistics
    are those of the whole batch over that axis's devices (PyTorch's SyncBatchNorm). The first `apart` axes count
    batches that are normalised apart, as if they came one after the other.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None
    apart: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[..., C] -> [..., C], in the dtype of `x`. In training updates the collection "batch_stats"."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        if not train:
            factor: jax.Array | None = self.get_variable(FROZEN, "factor")
            if factor is None:
                factor = jax.lax.rsqrt(running_var.value + self.epsilon) * scale
                if self.is_mutable_collection(FROZEN) and not self.is_initializing():
                    self.put_variable(FROZEN, "factor", factor)
            return ((x.astype(jnp.float32) - running_mean.value) * factor + bias).astype(x.dtype)
        axis = self._axis_of_several()
        made, mean, var = batch_normalise(x, scale, bias, self.epsilon, axis, self.apart)
        if not self.is_initializing():
            count = x.size // mean.size * (jax.lax.axis_size(axis) if axis else 1)
            mean, unbiased = jax.lax.stop_gradient((mean, var * (count / max(count - 1, 1))))
            for batch in np.ndindex(mean.shape[:-1]):
                running_mean.value += self.momentum * (mean[batch] - running_mean.value)
                running_var.value += self.momentum * (unbiased[batch] - running_var.value)
        return made

    def _axis_of_several(self) -> str | None:
        """`axis_name` where it has more than one device; it is not bound while the variables are made."""
        if self.axis_name is None or self.is_initializing() or jax.lax.axis_size(self.axis_name) == 1:
            return None
        return self.axis_name


def instance_norm(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Each image's channels [B, H, W, C] to mean 0 and variance 1 over H and W, without affine, in float32 inside."""
    return standardise(x, (1, 2), epsilon).astype(x.dtype)


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
        standard = standardise(x, tuple(range(1, x.ndim)), self.epsilon)
        return _affine(standard, scale, bias).astype(self.dtype)
