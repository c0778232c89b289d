"""Which items make up which batch, computed directly from the seed and the step.

The endless stream of items is one permutation of the n items after another, or, balanced, one permutation of the
persons after another, each with the next of the person's own images; batch t is its items t*batch to (t+1)*batch - 1.
Nothing is stored between steps, so a resumed run, and any number of processes, see the same batches.
"""

from functools import lru_cache

import numpy as np


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Order of the n items in one epoch, [n] int32; a function of its arguments only.

    Sorts raw Philox words instead of calling Generator.permutation: NumPy keeps the bit streams the same between
    versions but not what a Generator makes of them, and a run may be resumed under another version.
    """
    key = np.array([seed % 2**64, epoch], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable").astype(np.int32)


def own_permutation(seed: int, person: int, turn: int, n: int) -> np.ndarray:
    """Order of one person's n images on the `turn`-th way through them, [n] int32; a function of its arguments only."""
    key = np.array([seed % 2**64, turn], np.uint64)
    # Each person has the words of a far part of the stream, away from `permutation`'s.
    counter = np.array([0, 0, 0, person + 1], np.uint64)
    return np.argsort(np.random.Philox(key=key, counter=counter).random_raw(n), kind="stable").astype(np.int32)


@lru_cache(maxsize=4)
def _kept(seed: int, epoch: int, n: int) -> np.ndarray:
    order = permutation(seed, epoch, n)
    order.flags.writeable = False  # shared between calls
    return order


def image_batches(seed: int, n: int, batch: int, first_step: int, steps: int, *, shuffle: bool = True) -> np.ndarray:
    """Items of the global batches first_step .. first_step + steps - 1, [steps, batch] int32 in 0..n-1.

    Batches run across epoch boundaries: every item comes once an epoch and none is dropped. Without `shuffle` every
    epoch is 0..n-1 in order (stage II goes through the persons in a fixed order) and the seed has no effect.
    Raises ValueError when n, batch or steps is below 1, or first_step negative.
    """
    if min(n, batch, steps) < 1 or first_step < 0:
        raise ValueError(f"no batches for {n=}, {batch=}, {first_step=}, {steps=}")
    first, last = first_step * batch, (first_step + steps) * batch
    if not shuffle:
        items = np.arange(first, last) % n
    else:
        epochs = range(first // n, (last - 1) // n + 1)
        stream = np.concatenate([_kept(seed, epoch, n) for epoch in epochs])
        items = stream[first - epochs[0] * n : last - epochs[0] * n]
    return items.astype(np.int32).reshape(steps, batch)


class Balanced:
    """Order in which every person comes once a round, so that over any number of steps from the first on the numbers of
    images of two persons differ by at most one; each person's images come equally often among themselves.

    labels [n]: the person of each item, any integers.
    Raises ValueError when there are none.
    """

    def __init__(self, seed: int, labels: np.ndarray) -> None:
        if not len(labels):
            raise ValueError("no items to draw from")
        self._seed, self._labels = seed, labels
        self._items = np.argsort(labels, kind="stable")
        _, self._first, self._counts = np.unique(labels[self._items], return_index=True, return_counts=True)

        @lru_cache(maxsize=4 * len(self._counts))
        def own(person: int, turn: int) -> np.ndarray:
            return own_permutation(seed, person, turn, int(self._counts[person]))

        self._own = own

    def __reduce__(self) -> tuple[type["Balanced"], tuple[int, np.ndarray]]:
        """To another process goes what it is made of: what has been computed is not worth sending."""
        return Balanced, (self._seed, self._labels)

    def batches(self, batch: int, first_step: int, steps: int) -> np.ndarray:
        """Items of the global batches first_step .. first_step + steps - 1, [steps, batch] int32 in 0..n-1.

        Raises ValueError when batch or steps is below 1, or first_step negative.
        """
        persons = len(self._counts)
        stream = image_batches(self._seed, persons, batch, first_step, steps).ravel()
        rounds = np.arange(first_step * batch, (first_step + steps) * batch) // persons
        turns, places = rounds // self._counts[stream], rounds % self._counts[stream]
        own = [
            self._own(person, turn)[place]
            for person, turn, place in zip(stream.tolist(), turns.tolist(), places.tolist(), strict=True)
        ]
        return self._items[self._first[stream] + own].astype(np.int32).reshape(steps, batch)
