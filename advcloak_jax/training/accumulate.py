"""Gradient accumulation: a device's share of the batch in parts, one after the other, so that memory holds the
activations of one part.

The mean over equal parts of a mean loss's gradients is the whole share's gradient. What a network takes over its batch
is not: with batch norm every part (of all devices together) has its own statistics, and the running ones are updated
once a part; AdaFace's running norms likewise. Dropout draws anew for every part.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Parts:
    """How many parts, and whether to write them out instead of looping (see `parallel.scan_steps`)."""

    count: int = 1
    unroll: bool = False


WHOLE = Parts()


def mean_over_parts(
    compute: Callable[[PyTree, PyTree, jax.Array], tuple[PyTree, PyTree]], carry: PyTree, data: PyTree, parts: Parts
) -> tuple[PyTree, PyTree]:
    """(carry after all parts, mean of their values) for compute(carry, part, its number) -> (carry, values).

    data: arrays [b, ...] that are cut along their first axis; where that counts images in one array and persons in
    another, a part has the same persons in both.
    """
    if parts.count == 1:
        return compute(carry, data, jnp.int32(0))
    cut = jax.tree.map(lambda x: x.reshape(parts.count, x.shape[0] // parts.count, *x.shape[1:]), data)
    if parts.unroll:
        found = []
        for number in range(parts.count):
            part = jax.tree.map(lambda x, number=number: x[number], cut)
            carry, values = compute(carry, part, jnp.int32(number))
            found.append(values)
        total = jax.tree.map(lambda *values: sum(values[1:], values[0]), *found)
    else:
        shapes = jax.eval_shape(compute, carry, jax.tree.map(lambda x: x[0], cut), jnp.int32(0))[1]

        def body(held: tuple[PyTree, PyTree], item: tuple[PyTree, jax.Array]) -> tuple[tuple[PyTree, PyTree], None]:
            carry, total = held
            carry, values = compute(carry, *item)
            return (carry, jax.tree.map(jnp.add, total, values)), None

        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (carry, total), _ = lax.scan(body, (carry, nothing), (cut, jnp.arange(parts.count)))
    return carry, jax.tree.map(lambda value: value / parts.count, total)
