"""Running a block of a network: what it gives is written to memory; what it computes inside may be made again later."""

from typing import Any

import flax.linen as nn
import jax

from advcloak_jax.networks.materialise import materialised


def run_block(block: nn.Module, x: jax.Array, *, remat: bool, written: bool = True, **arguments: Any) -> jax.Array:
    """block(x, **arguments). With `remat` only x is kept for the backward pass: less memory, a second forward pass.

    `written`: what the block gives is `materialised`; off where the blocks of a chain are so few that computing them
    anew costs no more. The block must have been made in the module that calls this; its variables and the values are
    the same either way.
    """

    def call(block: nn.Module, x: jax.Array) -> jax.Array:
        return block(x, **arguments)

    result: jax.Array = (nn.remat(call) if remat else call)(block, x)
    return materialised(result) if written else result
