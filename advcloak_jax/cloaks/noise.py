"""Random masks: what the norm alone does, without any learning. The row every cloak must beat."""

import jax

from advcloak_jax.cloaks.cloak import Cloak


def noise() -> Cloak:
    """One mask of independent normal values per person."""

    def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (faces.shape[0], *faces.shape[2:]))

    return Cloak("Random mask", "person", make_masks)
