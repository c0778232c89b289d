"""One mask from a generator's one input (GAP, Poursaeed et al., CVPR 2018)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

PyTree = Any


def fixed_noise(key: jax.Array, image_size: int) -> jax.Array:
    """The generator's one input [1, H, W, 3], uniform in [0, 1): the same in training and ever after."""
    return jax.random.uniform(key, (1, image_size, image_size, 3), jnp.float32)


def universal_mask(
    generator: nn.Module, variables: PyTree, noise: jax.Array, epsilon: float
) -> tuple[jax.Array, PyTree]:
    """The mask [H, W, 3] on the scale [0, 1], and the batch statistics that its making leaves.

    Scaled down as a whole, not clipped, where a pixel changes by more than `epsilon` of 255. The network's batch
    statistics are those of the one input itself, in training and afterwards: so the mask is exactly the trained one.
    """
    raw, updates = generator.apply(variables, noise, train=True, mutable=["batch_stats"])
    mask = raw[0]
    largest = jnp.max(jnp.abs(mask))
    return mask * jnp.minimum(1.0, epsilon / 255 / jnp.maximum(largest, 1e-12)), updates["batch_stats"]
