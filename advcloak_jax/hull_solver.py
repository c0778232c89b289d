"""The small quadratic programme behind the convex hull: min_w w'Gw/2 - b'w over {sum w = 1, lower <= w <= upper}.

The only file that knows jaxopt, so that another solver can take its place.
"""

import functools
import math

import jax
import jax.numpy as jnp
import jaxopt

from advcloak_jax.errors import UserError
from advcloak_jax.hull_polish import Algebra
from advcloak_jax.hull_polish import polish as take_polish_steps

_ROUNDING = 1e-7
"""Differences of the scaled objective below this are rounding."""


def effective_bounds(size: int, lower: float, upper: float) -> tuple[float, float]:
    """The tightest finite bounds that admit the same `size` weights of sum 1 as `lower` and `upper` do.

    One bound may be infinite: the sum then implies it. Raises UserError when no weights satisfy the bounds, or when
    neither bound is finite (that is the affine hull, which needs no iterations).
    """
    slack = 1e-9  # for bounds such as 1/m, whose product with m need not be 1 in floating point
    if not (math.isfinite(lower) or math.isfinite(upper)):
        raise UserError(
            f"Weight bounds ({lower}, {upper}) are not a hull: give at least one finite bound, or use 'affine-hull'."
        )
    if not (lower * size <= 1 + slack and upper * size >= 1 - slack):
        raise UserError(
            f"No {size} weights between {lower} and {upper} can sum to 1: lower * {size} must be at most 1 "
            f"and upper * {size} at least 1."
        )
    return max(lower, 1 - (size - 1) * upper), min(upper, 1 - (size - 1) * lower)


def project_weights(weights: jax.Array, lower: float, upper: float) -> jax.Array:
    """Nearest point to `weights` [m] in {sum w = 1, lower <= w <= upper}; exact, and without sorting.

    The nearest point is clip(weights - t, lower, upper) for the t at which it sums to 1. `lower` and `upper` are
    static. Raises UserError for bounds that no weights satisfy.
    """
    size = weights.shape[-1]
    tight_lower, tight_upper = effective_bounds(size, lower, upper)
    if upper >= 1 - (size - 1) * lower:  # then it never binds, as for the simplex
        threshold = _threshold_above(weights - tight_lower, 1 - size * tight_lower)
    else:
        threshold = _threshold_between(weights, tight_lower, tight_upper)
    return jnp.clip(weights - threshold, tight_lower, tight_upper)


def _threshold_above(excess: jax.Array, total: float) -> jax.Array:
    """The t with sum max(excess - t, 0) = total.

    For every index set S, sum max(excess - t, 0) >= sum_S (excess - t), with equality for the S that stays positive. So
    t is the largest (sum_S excess - total) / |S|, and the sets {j: excess_j >= excess_i} contain that one: m^2
    comparisons.
    """
    above = (excess[None, :] >= excess[:, None]).astype(excess.dtype)
    return jnp.max((jnp.sum(above * excess, axis=-1) - total) / jnp.sum(above, axis=-1))


def _threshold_between(weights: jax.Array, lower: float, upper: float) -> jax.Array:
    """The t with sum clip(weights - t, lower, upper) = 1.

    The sum falls with t, linearly between the 2m places where a weight leaves `upper` or reaches `lower`. The last such
    place with a sum >= 1 starts the right piece, and on it the free weights give t in closed form.
    """

    def last(places: jax.Array) -> jax.Array:
        sums = jnp.sum(jnp.clip(weights[None, :] - places[:, None], lower, upper), axis=-1)
        return jnp.max(jnp.where(sums >= 1, places, jnp.min(leaves_upper)))

    leaves_upper, reaches_lower = weights - upper, weights - lower
    start = jnp.maximum(last(leaves_upper), last(reaches_lower))
    at_upper, at_lower = leaves_upper > start, reaches_lower <= start
    free = ~(at_upper | at_lower)
    fixed = upper * jnp.sum(at_upper) + lower * jnp.sum(at_lower)
    count = jnp.sum(free)
    threshold = (jnp.sum(jnp.where(free, weights, 0)) + fixed - 1) / jnp.maximum(count, 1)
    return jnp.where(count > 0, threshold, start)


LOOPS = Algebra(functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST), lambda matrix, place: matrix[place])


@functools.partial(jax.jit, static_argnames=("lower", "upper", "iterations", "polish"))
def solve(
    gram: jax.Array, linear: jax.Array, *, lower: float, upper: float, iterations: int, polish: int = 0
) -> jax.Array:
    """Minimise w'Gw/2 - b'w under sum w = 1 and lower <= w <= upper, for many b per G.

    `gram` [..., m, m] float32, symmetric, already scaled to a largest eigenvalue of at most 1; `linear` [..., N, m]
    float32, scaled alike; returns w [..., N, m]. Takes exactly `iterations` accelerated projected-gradient steps of
    length 1: with a tolerance jaxopt's accelerated solver stops at wrong points, and a line search is slower and no
    better. `polish` active-set steps follow, undone where they raise the objective: they give what first-order steps
    reach slowly where features are nearly alike. Each problem has a lane of its own under vmap, so that a NaN in one
    stays there. Not differentiable; the caller takes w as a constant. Raises UserError for bounds that no weights
    satisfy.
    """
    size = linear.shape[-1]
    one = functools.partial(solve_one, lower=lower, upper=upper, iterations=iterations, polish=polish, algebra=LOOPS)
    images = jax.vmap(one, in_axes=(None, 0))
    flat = jax.vmap(images)(gram.reshape(-1, size, size), linear.reshape(-1, *linear.shape[-2:]))
    return flat.reshape(linear.shape)


def solve_one(
    gram: jax.Array,
    linear: jax.Array,
    *,
    lower: float,
    upper: float,
    iterations: int,
    polish: int,
    algebra: Algebra,
) -> jax.Array:
    """One problem of `solve`, G [m, m] and b [m] to w [m]; but for `algebra`, of operations that Triton knows too."""

    def gradient(weights: jax.Array) -> jax.Array:
        return algebra.product(gram, weights) - linear

    solver = jaxopt.ProjectedGradient(
        # A fixed step never asks for the value.
        fun=lambda weights: (jnp.zeros((), weights.dtype), gradient(weights)),
        value_and_grad=True,
        projection=lambda weights, _: project_weights(weights, lower, upper),
        stepsize=1.0,
        acceleration=True,
        tol=-1,
        maxiter=iterations,
        implicit_diff=False,
        jit=False,
        unroll=False,
    )
    # 0 * b makes the start vary over devices as b does: shard_map mistakes a replicated one for a constant.
    start = 1 / linear.shape[-1] + 0 * linear
    # `run` would compute an error in every step and ask it whether to go on, for which an accelerator must wait.
    first = jaxopt.OptStep(start, solver.init_state(start))
    found = jax.lax.fori_loop(0, iterations, lambda _, step: solver.update(*step), first).params
    if not polish:
        return found
    tight_lower, tight_upper = effective_bounds(linear.shape[-1], lower, upper)
    polished = take_polish_steps(
        found, gram, linear, lower=tight_lower, upper=tight_upper, steps=polish, algebra=algebra
    )
    polished = project_weights(polished, lower, upper)
    change = polished - found
    slope = gradient(found + change / 2)
    # The change sums to 0 but for rounding, which a slope common to all weights would magnify.
    rise = jnp.sum(change * (slope - jnp.sum(found * slope)))
    return jnp.where(rise <= _ROUNDING, polished, found)
