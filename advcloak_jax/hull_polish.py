"""Exact end of the hull projection: a few active-set steps from nearly right weights.

First-order steps find quickly which weights are at their bounds, and slowly how the others share what is left where
features are nearly alike or more than their dimensions. With the free weights known that is a linear system. Each step
solves it and then lets one weight reach its bound, or frees the one that most wants to leave its own. The inverse is
kept between the steps, because one weight more or less changes it by a rank-one matrix.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Algebra(NamedTuple):
    """What loops of XLA's and a kernel on registers do in ways of their own."""

    product: Callable[[jax.Array, jax.Array], jax.Array]
    """Of a matrix [m, m] and a vector [m], in float32 throughout."""
    row: Callable[[jax.Array, jax.Array], jax.Array]
    """Row [m] of a symmetric matrix [m, m] at a place."""


_RIDGE = 3e-5
"""Added to the Gram matrix's diagonal (largest eigenvalue 1), which is singular where features repeat. Every step
starts from a fresh gradient, so it slows the last digits down and does not bend the answer. With less, rounding shifts
more weight among features that are nearly the same, and steps end early at their bounds."""

_AT_BOUND = 1e-6
"""Weights this near to a bound are at it."""

_WANTS = 1e-7
"""Smallest slope, in units of the scaled gradient, for which a weight is freed."""

_TINY = 1e-30
"""Keeps 0 / 0 away where no weight is free."""


class _State(NamedTuple):
    """Weights [m], the objective's slopes there [m], which weights are free [m], and the inverse [m, m] of the free
    part of the Gram matrix, else 0.
    """

    weights: jax.Array
    slopes: jax.Array
    free: jax.Array
    inverse: jax.Array


def polish(
    weights: jax.Array,
    gram: jax.Array,
    linear: jax.Array,
    *,
    lower: float,
    upper: float,
    steps: int,
    algebra: Algebra,
) -> jax.Array:
    """Take `steps` active-set steps on min w'Gw/2 - b'w over {sum w = 1, lower <= w <= upper} from `weights` [m].

    `gram` [m, m] float32, symmetric, largest eigenvalue at most 1; `linear` [m] is b; the bounds are finite and static
    (`hull_solver.effective_bounds`), and `weights` keep them. Returns weights [m] that keep the bounds, and the sum but
    for rounding. Of operations that a Triton kernel knows too, but for those of `algebra`.
    """
    places = jnp.arange(weights.shape[-1])
    ridged = gram + _RIDGE * jnp.eye(len(places), dtype=gram.dtype)

    def slopes_at(weights: jax.Array) -> jax.Array:
        return algebra.product(gram, weights) - linear

    def step(_: int, state: _State) -> _State:
        weights, slopes, free, inverse = state
        to_slopes, to_ones = algebra.product(inverse, slopes), algebra.product(inverse, free.astype(weights.dtype))
        # On the free weights the slope at the minimum is the same everywhere: the multiplier of sum w = 1.
        multiplier = jnp.sum(to_slopes) / jnp.maximum(jnp.sum(to_ones), _TINY)
        move = jnp.where(free, multiplier * to_ones - to_slopes, 0)
        room = jnp.where(move < 0, lower - weights, upper - weights)
        reach = jnp.where(move == 0, jnp.inf, room / jnp.where(move == 0, 1, move))
        first, nearest = jnp.argmin(reach), jnp.min(reach)
        blocked = nearest < 1
        weights = jnp.clip(weights + jnp.clip(nearest, 0, 1) * move, lower, upper)

        slopes = slopes_at(weights)
        excess = slopes - multiplier
        wish = jnp.where(free, -jnp.inf, jnp.where(weights <= lower + _AT_BOUND, -excess, excess))
        keenest = jnp.argmax(wish)
        freed = ~blocked & (jnp.max(wish) > _WANTS)
        inverse = _enter(_leave(inverse, first, blocked, algebra), ridged, keenest, freed, algebra)
        free = (free & ~(blocked & (places == first))) | (freed & (places == keenest))
        return _State(weights, slopes, free, inverse)

    free = (weights > lower + _AT_BOUND) & (weights < upper - _AT_BOUND)

    def admit(place: jax.Array, inverse: jax.Array) -> jax.Array:
        # A sum, because Triton knows no `any`.
        wanted = jnp.sum(jnp.where(free & (places == place), 1.0, 0.0)) > 0
        return _enter(inverse, ridged, place, wanted, algebra)

    # 0 * G varies over devices as G does; shard_map takes a plain zero for a constant.
    inverse = jax.lax.fori_loop(0, len(places), admit, 0 * gram)
    return jax.lax.fori_loop(0, steps, step, _State(weights, slopes_at(weights), free, inverse)).weights


def _enter(inverse: jax.Array, ridged: jax.Array, place: jax.Array, wanted: jax.Array, algebra: Algebra) -> jax.Array:
    """The inverse once the weight at `place` is free too, where `wanted`."""
    unit = (jnp.arange(len(inverse)) == place).astype(inverse.dtype)
    column = unit - algebra.product(inverse, algebra.row(ridged, place))
    pivot = jnp.maximum(jnp.sum(column * algebra.product(ridged, column)), _RIDGE)
    return inverse + jnp.where(wanted, 1 / pivot, 0) * (column[:, None] * column[None, :])


def _leave(inverse: jax.Array, place: jax.Array, wanted: jax.Array, algebra: Algebra) -> jax.Array:
    """The inverse once the weight at `place` is at its bound, where `wanted`."""
    column, gone = algebra.row(inverse, place), jnp.arange(len(inverse)) == place
    pivot = jnp.sum(jnp.where(gone, column, 0))
    left = inverse - column[:, None] * column[None, :] / jnp.where(wanted, pivot, 1)
    # Rounding leaves almost zeros in its row and column.
    return jnp.where(wanted, jnp.where(gone[:, None] | gone[None, :], 0, left), inverse)
