"""Masks of a generator: each image's own (AdvFaces), or their mean over a person (AdvFaces+, AdvCloak; Eq. 2)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.images import aggregate

PyTree = Any
PERSONS_AT_A_TIME = 4


def person_masks(generator: nn.Module, variables: PyTree, faces: jax.Array) -> jax.Array:
    """Masks [P, H, W, C] of persons with faces [P, N, H, W, C] in [0, 1]; the generator in evaluation mode."""
    flat = faces.reshape(-1, *faces.shape[2:])
    masks: jax.Array = generator.apply(variables, flat, train=False)  # type: ignore[assignment]
    return aggregate(masks.reshape(faces.shape))


_compiled_masks = jax.jit(person_masks, static_argnums=0)
"""One program for all variables of a generator."""


def averaged(name: str, generator: nn.Module, variables: PyTree) -> Cloak:
    """The cloak of a trained generator: AdvFaces+ after stage I, AdvCloak after stage II.

    A few persons at a time, so that memory does not grow with their number.
    """

    def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
        return _in_blocks(lambda block: _compiled_masks(generator, variables, block), faces)

    return Cloak(name, "person", make_masks)


def per_image(name: str, generator: nn.Module, variables: PyTree) -> Cloak:
    """AdvFaces: a mask for each image, by the generator of stage I."""

    def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
        def masks_of(block: jax.Array) -> jax.Array:
            # An image by itself is the mean of one.
            flat = block.reshape(-1, 1, *block.shape[2:])
            return _compiled_masks(generator, variables, flat).reshape(block.shape)

        return _in_blocks(masks_of, faces)

    return Cloak(name, "image", make_masks)


def _in_blocks(masks_of: Callable[[jax.Array], jax.Array], faces: jax.Array) -> jax.Array:
    """Masks of persons with faces [P, N, H, W, C], made for PERSONS_AT_A_TIME of them in one call."""
    persons = faces.shape[0]
    padded = jnp.concatenate([faces, jnp.repeat(faces[-1:], -persons % PERSONS_AT_A_TIME, axis=0)])
    blocks = padded.reshape(-1, PERSONS_AT_A_TIME, *faces.shape[1:])
    return jnp.concatenate([masks_of(block) for block in blocks])[:persons]
