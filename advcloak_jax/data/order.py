"""Which items make up which batch, computed directly from the seed and the step.

The endless stream of items is one permutation of the n items after another; batch t is its items t*batch to
(t+1)*batch - 1. Nothing is stored between steps, so a resumed run, and any number of processes, see the same batches.
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
