"""Faces that stay on disk or in the host's memory, read ahead with Grain while the devices work."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from advcloak_jax.data.rows import Images

PyTree = Any
Order = Callable[[int, int], np.ndarray]
"""(first step, steps) -> items of the global batches, [steps, B] int32."""

READ_AHEAD = 2
"""Calls whose faces are read before they are asked for, on the host and again on the device."""


class Calls:
    """Element i is what the i-th call is fed with: this process's part of `count` steps (the last may have fewer).

    What a Grain pipeline reads from, in threads or in other processes, each of which has a copy.
    """

    def __init__(self, faces: Images, order: Order, part: slice, first: int, last: int, count: int) -> None:
        """part: of the global batch. first, last: steps, the last exclusive."""
        self._faces, self._order, self._part = faces, order, part
        self._first, self._last, self._count = first, last, count

    def __len__(self) -> int:
        return -(-(self._last - self._first) // self._count)

    def __getitem__(self, call: int) -> dict[str, np.ndarray]:
        """{"index": [K, b] int32, "faces": [K, b, H, W, C] uint8}."""
        start = self._first + call * self._count
        index = self._order(start, min(self._count, self._last - start))[:, self._part]
        return {"index": index, "faces": self._faces[index]}


def pipeline(calls: Calls, workers: int, finish: Callable[[dict[str, np.ndarray]], PyTree]) -> Iterator[PyTree]:
    """Every call in order, read ahead by `workers` processes (0: by threads of this one).

    finish: what becomes of a call in this process, in a thread of its own: it is put on the devices ahead of time.
    """
    threads = grain.ReadOptions(num_threads=READ_AHEAD, prefetch_buffer_size=READ_AHEAD)
    read = grain.MapDataset.source(calls).to_iter_dataset(threads)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's processes read flags of absl, whose command line is not ours
        read = read.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1))
        # What comes is shared memory, which should go back before a device array that lives on refers to it.
        read = read.map(lambda call: {name: np.array(value) for name, value in call.items()})
    placed = grain.experimental.ThreadPrefetchIterDataset(read.map(finish), prefetch_buffer_size=READ_AHEAD)
    return iter(placed)


class Stream:
    """Calls of any steps, quick when they are asked for one after the other.

    start(first step, steps per call) -> the calls from that step on. What is asked for out of turn, as after a resumed
    checkpoint, starts reading anew from there: nothing but the step says what comes next.
    """

    def __init__(self, start: Callable[[int, int], Iterator[PyTree]]) -> None:
        self._start = start
        self._calls: Iterator[PyTree] | None = None
        self._next, self._count = 0, 0
        self.starting_seconds = 0.0
        """Spent until the first call after each start: files are opened, processes started."""
        self.waited_seconds = 0.0
        """Spent on all other calls: the devices may have waited so long, and not longer."""

    def take(self, first: int, count: int) -> PyTree:
        """What `count` steps from `first` on are fed with."""
        began = time.perf_counter()
        fresh = self._calls is None or first != self._next or count > self._count
        if fresh:
            self.close()
            self._calls, self._count = self._start(first, count), count
        assert self._calls is not None
        call = next(self._calls)
        seconds = time.perf_counter() - began
        self._next = first + count
        if fresh:
            self.starting_seconds += seconds
        else:
            self.waited_seconds += seconds
        return call

    def close(self) -> None:
        """Stop reading ahead."""
        if self._calls is not None and hasattr(self._calls, "close"):
            self._calls.close()
        self._calls = None
