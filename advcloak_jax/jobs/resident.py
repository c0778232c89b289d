"""What the training of a generator keeps on the devices."""

from typing import Any, NamedTuple

import jax

from advcloak_jax.config import GeneratorConfig
from advcloak_jax.recognizers.frozen import freeze
from advcloak_jax.recognizers.recognizer import Recognizer
from advcloak_jax.training import placement
from advcloak_jax.training.feed import Feed

PyTree = Any


class Resident(NamedTuple):
    """The feed's rows, the frozen surrogate's variables, the root key.

    Rows of stage I: faces [n, H, W, C] uint8, embeddings [n, d] of the originals. Of stage II: faces [G, n, H, W, C],
    embeddings [G, n, d], and the persons' subspaces.
    """

    rows: PyTree
    surrogate: PyTree
    key: PyTree


def make_resident(
    config: GeneratorConfig, feed: Feed, surrogate: Recognizer, key: jax.Array, devices: list[jax.Device]
) -> Resident:
    """All of it, on every device."""
    frozen = freeze(surrogate, config.image_size).variables
    return Resident(feed.rows, *placement.reside((frozen, key), devices, config.parallel))
