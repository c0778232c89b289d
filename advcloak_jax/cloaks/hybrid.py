"""AdvCloak's mask refined by a few steps of OPOM: what a generator learnt of all faces, fitted to one person.

The start is brought to the norm that is deployed and stays on that sphere: a box, OPOM's, would cut the few strong
strokes that a generator's mask lives by. A step follows the mean over the person's images of their gradients, each of
unit length, and is itself of fixed length. Four steps, the default, cost a quarter of OPOM's sixteen, on top of a pass
of the generator.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advcloak_jax import images
from advcloak_jax.cloaks import blocks, objectives
from advcloak_jax.cloaks.blocks import Attack, Surrogates
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.cloaks.objectives import Objective
from advcloak_jax.config.cloaks import HybridSettings
from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.recognizer import Recognizer

_TINY = 1e-12


class State(NamedTuple):
    """masks and kept directions, each [B, H, W, C]."""

    masks: jax.Array
    kept: jax.Array


def _unit(values: jax.Array) -> jax.Array:
    """Masks or gradients [..., H, W, C] at L2 norm 1; zero stays zero."""
    squares = jnp.sum(jnp.square(values), (-3, -2, -1), keepdims=True)
    return values * jax.lax.rsqrt(jnp.maximum(squares, _TINY**2))


@functools.cache
def attack(settings: HybridSettings, image_size: int) -> Attack:
    """The steps of one block of persons; `start` takes the masks [B, H, W, C] to begin with behind the keys."""
    norm = images.mask_norm_at(image_size, settings.norm) / 255
    objective = Objective(
        settings.subspace, 0, settings.lower, settings.upper, settings.projection_iterations, dropout=0.0
    )

    def start(
        surrogates: Surrogates, faces: jax.Array, keys: jax.Array, masks: jax.Array
    ) -> tuple[list[object], State]:
        originals = objectives.describe(objective, surrogates, faces, None)
        return originals, State(norm * _unit(masks), jnp.zeros_like(masks))

    def step(surrogates: Surrogates, faces: jax.Array, context: list[object], state: State, number: jax.Array) -> State:
        protected = images.apply_mask(faces, state.masks[:, None])
        found = objectives.gradients(objective, surrogates, context, protected, number, None)
        kept = settings.momentum * state.kept + _unit(jnp.mean(_unit(found), axis=1))
        masks = norm * _unit(state.masks + settings.step_size * norm * _unit(kept))
        return State(masks, kept)

    return Attack(settings.steps, start, step, lambda state: state.masks)


def refined(name: str, start: Cloak, surrogates: Sequence[Recognizer], settings: HybridSettings) -> Cloak:
    """The masks of `start`, one per person, after a few steps against `surrogates`.

    Raises UserError when `start` makes no masks per person.
    """
    if start.kind != "person":
        raise UserError(f"hybrid cannot start from {start.name}: its masks are not per person; name a run of person.")

    def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
        masks = start.make_masks(faces, key)
        run = blocks.runner(attack(settings, faces.shape[-2]), surrogates)
        return run(faces, blocks.person_keys(key, len(faces)), masks)

    return Cloak(name, "person", make_masks)
