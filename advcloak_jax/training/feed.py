"""What a job's steps are fed with, as a function of the step alone: nothing of a feed is in a checkpoint."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from advcloak_jax.training import parallel

PyTree = Any


class Feed(Protocol):
    """Batches of any steps, the same whatever was asked for before."""

    def batches(self, first_step: int, count: int) -> PyTree:
        """This process's part of the batches of `count` steps from `first_step` on: arrays [count, b, ...].

        With B the global batch, b is B over the number of processes: the block that `parallel.own_part` takes.
        """
        ...


class ResidentFeed:
    """Which items of a set that lies on every device make up a batch, and their positions in the global batch.

    order(first step, steps) -> [steps, B] int32 items.
    """

    def __init__(self, order: Callable[[int, int], np.ndarray]) -> None:
        self._order = order

    def batches(self, first_step: int, count: int) -> dict[str, np.ndarray]:
        """{"index": [count, b], "position": [count, b]}, int32."""
        index = self._order(first_step, count)
        return parallel.own_part({"index": index, "position": positions(index)})


def positions(index: np.ndarray) -> np.ndarray:
    """Place of every item in its global batch, for items [K, B, ...]: [K, B] int32."""
    return np.broadcast_to(np.arange(index.shape[1], dtype=np.int32), index.shape[:2]).copy()
