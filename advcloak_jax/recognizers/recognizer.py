"""A trained recogniser as one value: the network and its variables, and the embedding of images by it."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Recognizer:
    """A frozen recogniser: a pytree of `variables` ("params", "batch_stats") with its `module` as static part."""

    module: nn.Module = flax.struct.field(pytree_node=False)
    variables: Any

    def __call__(self, images: jax.Array) -> jax.Array:
        """`embed` of images [B, H, W, 3] in [0, 1] -> [B, d]."""
        return embed(self.module, self.variables, images)


def normalise(features: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Features [..., d] to unit norm, float32; a norm below `epsilon` divides by `epsilon`, gradients stay finite."""
    features = features.astype(jnp.float32)
    squared = jnp.sum(jnp.square(features), -1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squared, epsilon**2))


def embed(module: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    """Images [B, H, W, 3] in [0, 1] -> unit-norm embeddings [B, d] float32, by the running statistics."""
    return normalise(module.apply(variables, images, train=False))  # type: ignore[arg-type]
