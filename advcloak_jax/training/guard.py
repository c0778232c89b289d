"""A step whose loss or update is no finite number: found on the device, and dropped where that is asked for."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from advcloak_jax.training.steps import DEVICES

PyTree = Any
BAD = "bad"
"""Metric of a guarded step: 1 where a loss or the new state is not finite, else 0."""


def guarded(step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], *, skip: bool) -> Callable[..., Any]:
    """`step` with the metric BAD, the same on all devices.

    skip: a bad step leaves the state as it was, but for its number, and its other metrics are 0.
    """

    def run(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        new, metrics = step(state, batch)
        # A classifier may be spread over the devices: each looks at its own part.
        good = lax.pmin(_finite((new, metrics)).astype(jnp.int32), DEVICES) > 0
        if skip:
            new = jax.tree.map(lambda after, before: jnp.where(good, after, before), new, state).replace(step=new.step)
            metrics = jax.tree.map(lambda value: jnp.where(good, value, 0), metrics)
        return new, {**metrics, BAD: 1 - good.astype(jnp.float32)}

    return run


def _finite(tree: PyTree) -> jax.Array:
    """Whether every number of a tree is finite."""
    on_cpu = jax.default_backend() == "cpu"
    alike: dict[Any, list[jax.Array]] = {}
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            alike.setdefault(number if on_cpu else leaf.shape, []).append(jnp.isfinite(leaf))
    # Arrays of one shape, as a parameter's and its moments', are looked at in one pass: a sum for each would be a
    # kernel for each, a ninth of a step's. On CPUs, which launch none, what they have in common would be written first.
    return jnp.stack([functools.reduce(jnp.logical_and, masks).all() for masks in alike.values()]).all()
