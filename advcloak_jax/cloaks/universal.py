"""GAP: one mask for everybody, made by a generator from one fixed picture of noise (Poursaeed et al., CVPR 2018)."""

from typing import Any

import flax.linen as nn
import jax

from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.networks.universal_mask import universal_mask

PyTree = Any


def universal(name: str, generator: nn.Module, variables: PyTree, noise: jax.Array, epsilon: float) -> Cloak:
    """The cloak of a generator that `train.py universal` trained: its mask is made once."""
    mask = jax.jit(lambda variables: universal_mask(generator, variables, noise, epsilon)[0])(variables)
    return Cloak(name, "universal", lambda faces, key: mask)
