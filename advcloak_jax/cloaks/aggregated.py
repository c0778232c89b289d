"""SGA-UAP: one mask per person, moved by the sum of the gradients of many small draws of the person's images.

Stochastic gradient aggregation (Liu et al., ICCV 2023): between two steps of the mask, an inner copy of it takes a step
along the sign of the gradient of every draw, and the mask then moves along the sign of the mean of all those gradients:
the draws' noise leaves flat regions that the full gradient would sink into, and the mean keeps the sign stable.

It was published for one mask for all images of a classifier. Here it is one mask per person, the draws are of the
person's images, and the feature distance takes the place of the cross-entropy. The gradient of that is 0 at the
originals, so the start is FI-UAP's random noise (one for all images) where the published one is zero.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advcloak_jax.cloaks import blocks, objectives
from advcloak_jax.cloaks.blocks import Attack, Surrogates
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.cloaks.objectives import Objective
from advcloak_jax.config.cloaks import AggregationSettings
from advcloak_jax.recognizers.recognizer import Recognizer

_TINY = 1e-30


class Context(NamedTuple):
    """originals: what `objectives.describe` says of each surrogate; keys [B]."""

    originals: list[Any]
    keys: jax.Array


class State(NamedTuple):
    """masks, inner masks, sum of the draws' gradients and kept direction, each [B, H, W, C]."""

    masks: jax.Array
    inner: jax.Array
    total: jax.Array
    kept: jax.Array


def draws(settings: AggregationSettings, images: int) -> int:
    """Draws per step from `images` images of a person."""
    return max(1, settings.rounds * images // min(settings.minibatch, images))


Draw = Callable[[jax.Array, jax.Array, int, int], jax.Array]
"""A person's key, the draw's number, images and how many of them -> indices."""


def draw(key: jax.Array, number: jax.Array, images: int, size: int) -> jax.Array:
    """`size` different ones of `images` images, [size]."""
    return jax.random.permutation(jax.random.fold_in(key, 1 + number), images)[:size]


def begin(
    surrogates: Surrogates, faces: jax.Array, keys: jax.Array, masks: jax.Array, kind: objectives.Kind
) -> tuple[Context, State]:
    """Context and state before the first draw, from masks [B, H, W, C]."""
    originals = objectives.describe(Objective(kind), surrogates, faces, None)
    return Context(originals, keys), State(masks, masks, jnp.zeros_like(masks), jnp.zeros_like(masks))


@functools.cache
def attack(settings: AggregationSettings, images: int, draw: Draw = draw) -> Attack:
    """The draws of one block of persons with `images` images each: `draws` of them make one step of the masks."""
    epsilon, step_size = settings.epsilon / 255, settings.step_size / 255
    size, every = min(settings.minibatch, images), draws(settings, images)
    objective = Objective(settings.subspace)

    def start(surrogates: Surrogates, faces: jax.Array, keys: jax.Array) -> tuple[Context, State]:
        shape = faces.shape[2:]
        masks = jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32, minval=-epsilon, maxval=epsilon))(keys)
        return begin(surrogates, faces, keys, masks, settings.subspace)

    def step(surrogates: Surrogates, faces: jax.Array, context: Context, state: State, number: jax.Array) -> State:
        drawn = jax.vmap(lambda key: draw(key, number, images, size))(context.keys)
        chosen = _chosen(faces, drawn)
        known = context.originals
        if settings.subspace == "plain":
            known = [_chosen(embeddings, drawn) for embeddings in known]
        protected = chosen + state.inner[:, None]
        found = objectives.gradients(objective, surrogates, known, jnp.clip(protected, 0, 1), number, None)
        found = jnp.mean(jnp.where((protected < 0) | (protected > 1), 0, found), axis=1)
        inner = jnp.clip(state.inner + step_size * jnp.sign(found), -epsilon, epsilon)
        total = state.total + found
        size_of_total = jnp.sum(jnp.abs(total), (1, 2, 3), keepdims=True)
        kept = settings.momentum * state.kept + total / jnp.maximum(size_of_total, _TINY)
        masks = jnp.clip(state.masks + step_size * jnp.sign(kept), -epsilon, epsilon)
        between = State(state.masks, inner, total, state.kept)
        after = State(masks, masks, jnp.zeros_like(total), kept)
        return jax.tree.map(lambda a, b: jnp.where((number + 1) % every == 0, a, b), after, between)

    return Attack(settings.steps * every, start, step, lambda state: state.masks)


def _chosen(values: jax.Array, drawn: jax.Array) -> jax.Array:
    """Those of each person's values [B, N, ...] that are `drawn` [B, m]."""
    return jax.vmap(lambda own, rows: own[rows])(values, drawn)


def aggregated(name: str, surrogates: Sequence[Recognizer], settings: AggregationSettings) -> Cloak:
    """SGA-UAP for each person."""

    def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
        run = blocks.runner(attack(settings, faces.shape[1]), surrogates)
        return run(faces, blocks.person_keys(key, len(faces)))

    return Cloak(name, "person", make_masks)
