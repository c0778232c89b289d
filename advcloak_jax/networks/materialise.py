"""Sums of residual blocks as arrays of their own, where XLA would compute them anew for every reader."""

import jax
from jax import export


def materialised(x: jax.Array) -> jax.Array:
    """x [B, ...] itself, and its cotangent likewise, written to memory before anything reads it: on CPUs.

    There, XLA fuses a chain of residual blocks, x + f(x) + g(x + f(x)) and so on, into each of its readers, which then
    compute the whole chain again for every element: 24 blocks with gradients took seven times as long. It takes
    barriers out before it fuses, so what stops it is a branch, whose condition nothing but computing it shows to be
    false. Not of a single image, whose FLOP are counted, nor where the number of images is unknown, in networks that
    are exported. Reverse mode only.
    """
    if jax.default_backend() != "cpu" or export.is_symbolic_dim(x.shape[0]) or x.shape[0] == 1:
        return x
    return _written(x)


@jax.custom_vjp
def _written(x: jax.Array) -> jax.Array:
    return _behind_a_branch(x)


def _forward(x: jax.Array) -> tuple[jax.Array, None]:
    return _behind_a_branch(x), None


def _backward(_: None, cotangent: jax.Array) -> tuple[jax.Array]:
    return (_behind_a_branch(cotangent),)


_written.defvjp(_forward, _backward)


def _behind_a_branch(x: jax.Array) -> jax.Array:
    first = x.ravel()[0]
    # False of every float, infinite or NaN too.
    return jax.lax.cond(first > first + 1, lambda values: 2 * values, lambda values: values, x)
