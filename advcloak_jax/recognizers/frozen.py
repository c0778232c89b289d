"""A recogniser that will not change any more, with what its layers make of its weights alone made once."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.norms import FROZEN
from advcloak_jax.recognizers.recognizer import Recognizer


def freeze(recognizer: Recognizer, size: int) -> Recognizer:
    """The same recogniser, for many passes over faces [B, size, size, 3] on accelerators, with less to do in each.

    Its kernels come in the dtype it computes in, and its batch norms with the factor of every channel. On CPUs it stays
    as it is: they would win little, and they keep a dense layer in float32. For embedding alone, not to be saved.
    """
    if jax.default_backend() == "cpu":
        return recognizer
    variables = recognizer.variables
    dtype = getattr(recognizer.module, "dtype", jnp.float32)

    def rounded(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if path[-1].key == "kernel" else leaf

    params = jax.tree_util.tree_map_with_path(rounded, variables["params"])
    frozen = {**variables, "params": params, **_made_once(recognizer.module, size, variables)}
    return recognizer.replace(variables=frozen)  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _made_once(module: nn.Module, size: int, variables: Any) -> Any:
    """The collection FROZEN. Nothing else of this pass over an empty face is compiled."""
    return module.apply(variables, jnp.zeros((1, size, size, 3)), train=False, mutable=[FROZEN])[1]
