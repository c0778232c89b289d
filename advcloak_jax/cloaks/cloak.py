"""The signature behind which every way of making masks stands."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax

Kind = Literal["person", "universal", "image"]


@dataclasses.dataclass(frozen=True)
class Cloak:
    """A way of making masks.

    make_masks: faces [P, N, H, W, C] in [0, 1] and a key -> masks on the same scale, of any norm:
    [P, H, W, C] (kind "person"), [H, W, C] ("universal") or [P, N, H, W, C] ("image").
    """

    name: str
    kind: Kind
    make_masks: Callable[[jax.Array, jax.Array], jax.Array]
