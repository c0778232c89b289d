"""Mean and variance of a batch that several devices share."""

import jax
import jax.numpy as jnp
from jax import lax

EVERY_DEVICE = "every_device"
"""Scope of the exchange whose bytes grow with the number of devices, to be found by in a compiled program."""


def over_devices(mean: jax.Array, var: jax.Array, axis: str) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over all devices of `axis`, from each device's own of equally many values, any shape.

    Chan et al. 1979: the mean of the variances and the variance of the means, which loses no digits however far the
    means are from zero. It takes one exchange, where a mean and then the deviations from it would take two.
    """
    own = jnp.stack((mean, var))
    # Every device's parts, as a sum of zeros and the own: with hundreds of devices an all-gather may take a turn for
    # each of them, an all-reduce takes their logarithm.
    with jax.named_scope(EVERY_DEVICE):
        zeros = jnp.zeros((lax.axis_size(axis), *own.shape), own.dtype)
        parts = lax.psum(zeros.at[lax.axis_index(axis)].set(own), axis)
    overall = parts[:, 0].mean(0)
    return overall, (parts[:, 1] + jnp.square(parts[:, 0] - overall)).mean(0)
