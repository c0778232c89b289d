"""FI-UAP, FI-UAP+ and OPOM: one mask per person by steps along the sign of the gradient; FIM: one per image.

As the released OPOM code has it: every image starts with noise of its own; a step moves the images along the sign of
the mean of their gradients, their mean change is clipped to the box and becomes the mask, and the images are again the
originals under that mask, clipped to the valid range. So a pixel that is clipped in some images moves less, and the
gradient is taken at the clipped images, not through the clipping. FIM is the same with one image at a time.

With momentum (the DFANet variants) each image sums its own gradients, each step's divided by their mean absolute value,
and the mask moves by the mean of the signs of the sums; the originals are embedded anew in every step, under dropout.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advcloak_jax.cloaks import blocks, objectives
from advcloak_jax.cloaks.blocks import Attack, Surrogates
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.cloaks.objectives import Objective
from advcloak_jax.config.cloaks import AttackSettings, DropoutSettings, HullSettings, Normaliser
from advcloak_jax.recognizers.recognizer import Recognizer

_TINY = 1e-30


class Context(NamedTuple):
    """originals: what `objectives.describe` says of each surrogate (none under dropout); keys [B]."""

    originals: list[Any]
    keys: jax.Array


class State(NamedTuple):
    """adversarial images [B, N, H, W, C], masks [B, H, W, C], sums of gradients [B, N, H, W, C] (none: no momentum)."""

    adversarial: jax.Array
    masks: jax.Array
    sums: jax.Array | None


def objective_of(kind: objectives.Kind, settings: AttackSettings) -> Objective:
    """The objective called `kind` with what its settings say."""
    dropout = settings.dropout if isinstance(settings, DropoutSettings) else 0.0
    if not isinstance(settings, HullSettings):
        return Objective(kind, dropout=dropout)
    return Objective(
        kind,
        settings.warmup_steps,
        settings.lower,
        settings.upper,
        settings.projection_iterations,
        dropout,
    )


def begin(
    objective: Objective,
    surrogates: Surrogates,
    faces: jax.Array,
    keys: jax.Array,
    noise: jax.Array,
    *,
    has_momentum: bool,
) -> tuple[Context, State]:
    """Context and state before the first step: images [B, N, H, W, C] under noise of the same shape."""
    originals = [] if objective.dropout else objectives.describe(objective, surrogates, faces, None)
    masks = jnp.zeros((faces.shape[0], *faces.shape[2:]), jnp.float32)
    return Context(originals, keys), State(faces + noise, masks, jnp.zeros_like(faces) if has_momentum else None)


@functools.cache
def attack(objective: Objective, settings: AttackSettings) -> Attack:
    """The steps of one block of persons; the same for the same settings, whose programs are then shared."""
    epsilon, step_size = settings.epsilon / 255, settings.step_size / 255
    has_momentum = isinstance(settings, DropoutSettings)

    def start(surrogates: Surrogates, faces: jax.Array, keys: jax.Array) -> tuple[Context, State]:
        noise = jax.vmap(
            lambda key: jax.random.uniform(key, faces.shape[1:], jnp.float32, minval=-epsilon, maxval=epsilon)
        )(keys)
        return begin(objective, surrogates, faces, keys, noise, has_momentum=has_momentum)

    def step(surrogates: Surrogates, faces: jax.Array, context: Context, state: State, number: jax.Array) -> State:
        originals, keys = context.originals, None
        if objective.dropout:
            # 0 drew the start.
            keys = jax.vmap(jax.random.fold_in, (0, None))(context.keys, 1 + 2 * number)
            again = jax.vmap(jax.random.fold_in, (0, None))(context.keys, 2 + 2 * number)
            originals = objectives.describe(objective, surrogates, faces, again)
        found = objectives.gradients(objective, surrogates, originals, state.adversarial, number, keys)
        if isinstance(settings, DropoutSettings):
            assert state.sums is not None
            sums = state.sums + found / _mean_size(found, settings.normaliser)
            direction = jnp.mean(jnp.sign(sums), axis=1)
        else:
            sums, direction = None, jnp.sign(jnp.mean(found, axis=1))
        moved = jnp.mean(state.adversarial - faces, axis=1) + step_size * direction
        masks = jnp.clip(moved, -epsilon, epsilon)
        return State(jnp.clip(faces + masks[:, None], 0, 1), masks, sums)

    return Attack(settings.steps, start, step, lambda state: state.masks)


def _mean_size(found: jax.Array, normaliser: Normaliser) -> jax.Array:
    """What gradients [B, N, H, W, C] are divided by, see `DropoutSettings`; never 0."""
    axes = (1, 2, 4) if normaliser == "column" else (2, 3, 4)
    return jnp.maximum(jnp.mean(jnp.abs(found), axes, keepdims=True), _TINY)


def person_specific(
    name: str, kind: objectives.Kind, surrogates: Sequence[Recognizer], settings: AttackSettings
) -> Cloak:
    """FI-UAP (plain), FI-UAP+ (all-pairs), OPOM (a subspace) or, by the settings, their DFANet variants."""
    run = blocks.runner(attack(objective_of(kind, settings), settings), surrogates)

    def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
        return run(faces, blocks.person_keys(key, len(faces)))

    return Cloak(name, "person", make_masks)


def image_specific(name: str, surrogates: Sequence[Recognizer], settings: AttackSettings) -> Cloak:
    """FIM: every image by itself, away from its own original."""
    run = blocks.runner(attack(objective_of("plain", settings), settings), surrogates)

    def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
        images = faces.reshape(-1, 1, *faces.shape[2:])
        return run(images, blocks.person_keys(key, len(images))).reshape(faces.shape)

    return Cloak(name, "image", make_masks)
