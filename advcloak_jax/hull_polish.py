"""Exact end of the hull projection: a few active-set steps from nearly right weights.

First-order steps find quickly which weights are at their bounds, and slowly how the others share what is left where
features are nearly alike or more than their dimensions. With the free weights known that is a linear system. Each step
solves it and then lets one weight reach its bound, or frees the one that most wants to leave its own. The inverse is
kept between the steps, because one weight more or less changes it by a rank-one matrix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST

_RIDGE = 1e-5
"""Added to the Gram matrix's diagonal (largest eigenvalue 1), which is singular where features repeat. Every step
starts from a fresh gradient, so it slows the last digits down and does not bend the answer."""

_AT_BOUND = 1e-6
"""Weights this near to a bound are at it."""

_WANTS = 1e-7
"""Smallest slope, in units of the scaled gradient, for which a weight is freed."""

_TINY = 1e-30
"""Keeps 0 / 0 away where no weight is free."""


class _State(NamedTuple):
    """Weights [m], which of them are free [m], and the inverse [m, m] of the free part of the Gram matrix, else 0."""

    weights: jax.Array
    free: jax.Array
    inverse: jax.Array


def polish(
    weights: jax.Array, gram: jax.Array, linear: jax.Array, *, lower: float, upper: float, steps: int
) -> jax.Array:
    """Take `steps` active-set steps on min w'Gw/2 - b'w over {sum w = 1, lower <= w <= upper} from `weights` [m].

    `gram` [m, m] float32, symmetric, largest eigenvalue at most 1; `linear` [m] is b; the bounds are finite and static
    (`hull_solver.effective_bounds`), and `weights` keep them. Returns weights [m] that keep the bounds, and the sum but
    for rounding.
    """
    places = jnp.arange(weights.shape[-1])
    ridged = gram + _RIDGE * jnp.eye(len(places), dtype=gram.dtype)

    def slopes(weights: jax.Array) -> jax.Array:
        return _product(gram, weights) - linear

    def step(_: int, state: _State) -> _State:
        weights, free, inverse = state
        answers = _product(inverse, jnp.stack([slopes(weights), free.astype(weights.dtype)], axis=-1))
        # On the free weights the slope at the minimum is the same everywhere: the multiplier of sum w = 1.
        multiplier = jnp.sum(answers[:, 0]) / jnp.maximum(jnp.sum(answers[:, 1]), _TINY)
        move = jnp.where(free, multiplier * answers[:, 1] - answers[:, 0], 0)
        room = jnp.where(move < 0, lower - weights, upper - weights)
        reach = jnp.where(move == 0, jnp.inf, room / jnp.where(move == 0, 1, move))
        first = jnp.argmin(reach)
        blocked = reach[first] < 1
        weights = jnp.clip(weights + jnp.clip(reach[first], 0, 1) * move, lower, upper)

        excess = slopes(weights) - multiplier
        wish = jnp.where(free, -jnp.inf, jnp.where(weights <= lower + _AT_BOUND, -excess, excess))
        keenest = jnp.argmax(wish)
        freed = ~blocked & (wish[keenest] > _WANTS)
        inverse = _enter(_leave(inverse, first, blocked), ridged, keenest, freed)
        free = (free & ~(blocked & (places == first))) | (freed & (places == keenest))
        return _State(weights, free, inverse)

    free = (weights > lower + _AT_BOUND) & (weights < upper - _AT_BOUND)
    # 0 * G varies over devices as G does; shard_map takes a plain zero for a constant.
    inverse = jax.lax.fori_loop(0, len(places), lambda k, kept: _enter(kept, ridged, k, free[k]), 0 * gram)
    return jax.lax.fori_loop(0, steps, step, _State(weights, free, inverse)).weights


def _product(matrix: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, other, precision=_HIGHEST)


def _enter(inverse: jax.Array, ridged: jax.Array, place: jax.Array | int, wanted: jax.Array) -> jax.Array:
    """The inverse once the weight at `place` is free too, where `wanted`."""
    unit = (jnp.arange(len(inverse)) == place).astype(inverse.dtype)
    column = unit - _product(inverse, ridged[place])
    pivot = jnp.maximum(jnp.vdot(column, _product(ridged, column), precision=_HIGHEST), _RIDGE)
    return inverse + jnp.where(wanted, 1 / pivot, 0) * jnp.outer(column, column)


def _leave(inverse: jax.Array, place: jax.Array, wanted: jax.Array) -> jax.Array:
    """The inverse once the weight at `place` is at its bound, where `wanted`."""
    column = inverse[place]
    left = inverse - jnp.outer(column, column) / jnp.where(wanted, column[place], 1)
    gone = jnp.arange(len(inverse)) == place
    # Rounding leaves almost zeros in its row and column.
    return jnp.where(wanted, jnp.where(gone[:, None] | gone[None, :], 0, left), inverse)
