"""Batch norm's arithmetic, with gradients in two passes over the values and one exchange between devices each way."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from advcloak_jax.networks import moments


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch norm of x [..., C] with scale and bias [C], and the mean and biased variance [C] it took.

    The result has the dtype of `x`; statistics are float32, over the devices of `axis` if any, in one exchange each
    way. Mean and variance are for running statistics: no gradient goes through them.

    What JAX derives by itself goes through the variance and then the mean. For y = (x - mean) / std and the cotangent g
    of y both are in one formula (Ioffe & Szegedy 2015): (g - mean(g) - y mean(g y)) / std.
    """
    return _batch_forward(x, scale, bias, epsilon, axis)[0]


def _batch_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis: str | None
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    axes = tuple(range(x.ndim - 1))
    values = x.astype(jnp.float32)
    mean = values.mean(axes)
    var = jnp.square(values - mean).mean(axes)
    if axis is not None:
        mean, var = moments.over_devices(mean, var, axis)
    inverse = lax.rsqrt(var + epsilon)
    y = ((values - mean) * (inverse * scale) + bias).astype(x.dtype)
    return (y, mean, var), (x, mean, inverse, scale)


def _batch_backward(
    epsilon: float,
    axis: str | None,
    saved: tuple[jax.Array, ...],
    cotangents: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse, scale = saved
    axes = tuple(range(x.ndim - 1))
    pull = cotangents[0].astype(jnp.float32)
    centred = (x.astype(jnp.float32) - mean) * inverse
    of_bias, of_scale = pull.sum(axes), (pull * centred).sum(axes)
    shared = jnp.stack((of_bias, of_scale)) * (x.shape[-1] / x.size)
    if axis is not None:
        shared = lax.pmean(shared, axis)
    of_x = (pull - shared[0] - centred * shared[1]) * (inverse * scale)
    return of_x.astype(x.dtype), of_scale, of_bias


batch_normalise.defvjp(_batch_forward, _batch_backward)
