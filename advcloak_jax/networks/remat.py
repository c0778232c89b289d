"""Rematerialisation: what a block computes inside is made again in the backward pass, instead of kept until then."""

from typing import Any

import flax.linen as nn
import jax


def run_block(block: nn.Module, x: jax.Array, *, remat: bool, **arguments: Any) -> jax.Array:
    """block(x, **arguments). With `remat` only x is kept for the backward pass: less memory, a second forward pass.

    The block must have been made in the module that calls this; its variables and the values are the same either way.
    """

    def call(block: nn.Module, x: jax.Array) -> jax.Array:
        return block(x, **arguments)

    result: jax.Array = (nn.remat(call) if remat else call)(block, x)
    return result
