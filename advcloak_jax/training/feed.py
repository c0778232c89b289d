"""What a job's steps are fed with, as a function of the step alone: nothing of a feed is in a checkpoint.

A feed gives the same batches wherever the faces are: a copy on every device, shared between the devices, or streamed
from the disk. Its rows are what belongs to one item: its face, its label or embedding, in stage II a person's all.
"""

import time
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from advcloak_jax.data.rows import Images
from advcloak_jax.training import placement, streaming
from advcloak_jax.training.steps import DEVICES
from advcloak_jax.training.streaming import Order

PyTree = Any
Rows = dict[str, PyTree]
"""Arrays [n, ...] by name, one of them "faces", which may be of `data.rows`: read when they are needed."""


class Feed(Protocol):
    """Batches of any steps, the same whatever was asked for before.

    kind: its name. rows: what stays on the devices, for `parallelise` with these specs.
    """

    kind: str
    rows: PyTree
    specs: PyTree

    @property
    def starting_seconds(self) -> float:
        """Spent until the first batch was there, and again after each leap to another step."""
        ...

    @property
    def waited_seconds(self) -> float:
        """Spent on all other batches: the devices, which have the call before to do, waited so long or less."""
        ...

    def batches(self, first_step: int, count: int) -> PyTree:
        """This process's part of the batches of `count` steps from `first_step` on: arrays [count, b, ...].

        With B the global batch, b is B over the number of processes: the block that `placement.own_part` takes.
        """
        ...

    def take(self, rows: PyTree, item: PyTree) -> Rows:
        """In the graph: the rows of one step's batch [b] on this device."""
        ...

    def close(self) -> None:
        """Stop what runs in the background."""
        ...


class _Numbered:
    """Base of the feeds whose rows are on the devices: a batch is told by its items' numbers.

    order(first step, steps) -> [steps, B] int32 items.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._seconds = 0.0

    @property
    def starting_seconds(self) -> float:
        """Nothing needs starting."""
        return 0.0

    @property
    def waited_seconds(self) -> float:
        """Spent on computing the order."""
        return self._seconds

    def batches(self, first_step: int, count: int) -> dict[str, np.ndarray]:
        """{"index": [count, b], "position": [count, b]}, int32."""
        began = time.perf_counter()
        index = self._order(first_step, count)
        part = placement.own_part({"index": index, "position": positions(index)})
        self._seconds += time.perf_counter() - began
        return part

    def close(self) -> None:
        """Nothing runs in the background."""


class ResidentFeed(_Numbered):
    """A copy of all rows on every device."""

    kind = "resident"

    def __init__(self, rows: Rows, order: Order, devices: list[jax.Device], mapping: str) -> None:
        super().__init__(order)
        self.rows = placement.reside(jax.tree.map(_in_memory, rows), devices, mapping)
        self.specs = jax.tree.map(lambda _: P(), rows)

    def take(self, rows: Rows, item: PyTree) -> Rows:
        """In the graph: the rows of one step's batch [b] on this device."""
        taken: Rows = jax.tree.map(lambda x: x[item["index"]], rows)
        return taken


class ShardedFeed(_Numbered):
    """Rows shared between all devices, each of which holds one part in n; a batch's rows are exchanged in the graph."""

    kind = "sharded"

    def __init__(self, rows: Rows, order: Order, devices: list[jax.Device], mapping: str) -> None:
        super().__init__(order)
        self.rows = jax.tree.map(lambda x: placement.shard(x, devices, mapping), rows)
        self.specs = jax.tree.map(lambda _: P(DEVICES), rows)

    def take(self, rows: Rows, item: PyTree) -> Rows:
        """In the graph: the rows of one step's batch [b] on this device.

        Every device gives those of the whole batch that it holds, and zeros for the others: their sum is the batch.
        """
        wanted = lax.all_gather(item["index"], DEVICES, tiled=True)

        def exchange(x: jax.Array) -> jax.Array:
            place = wanted - lax.axis_index(DEVICES) * x.shape[0]
            here = (place >= 0) & (place < x.shape[0])
            own = x[jnp.clip(place, 0, x.shape[0] - 1)]
            own = jnp.where(here.reshape(-1, *[1] * (x.ndim - 1)), own, jnp.zeros((), x.dtype))
            return lax.psum_scatter(own, DEVICES, scatter_dimension=0, tiled=True)

        taken: Rows = jax.tree.map(exchange, rows)
        return taken


class StreamedFeed:
    """Faces read ahead from wherever they are, each process its own part; the other rows come from the host's memory.

    total: steps of the run. workers: processes that read and decode; 0: threads of this one.
    """

    kind = "streamed"

    def __init__(
        self, rows: Rows, order: Order, devices: list[jax.Device], mapping: str, *, total: int, workers: int
    ) -> None:
        self.rows: PyTree = {}
        self.specs: PyTree = {}
        self._faces: Images = rows["faces"]
        self._others = {name: jax.tree.map(np.asarray, value) for name, value in rows.items() if name != "faces"}
        self._order, self._devices, self._mapping = order, devices, mapping
        self._total, self._workers = total, workers
        self._stream = streaming.Stream(self._start)

    @property
    def starting_seconds(self) -> float:
        """Spent until the first call after each start: files are opened, processes started."""
        return self._stream.starting_seconds

    @property
    def waited_seconds(self) -> float:
        """Spent on all other calls."""
        return self._stream.waited_seconds

    def batches(self, first_step: int, count: int) -> PyTree:
        """{"index", "position": [count, b], "rows": [count, b, ...]}, on the devices already."""
        return self._stream.take(first_step, count)

    def take(self, rows: Rows, item: PyTree) -> Rows:
        """In the graph: the rows of one step's batch [b] on this device, which came with the batch."""
        taken: Rows = item["rows"]
        return taken

    def close(self) -> None:
        """Stop reading ahead."""
        self._stream.close()

    def _start(self, first: int, count: int) -> Any:
        part = placement.own_block(self._order(first, 1).shape[1])
        calls = streaming.Calls(self._faces, self._order, part, first, self._total, count)
        return streaming.pipeline(calls, self._workers, lambda call: self._finish(call, part))

    def _finish(self, call: dict[str, np.ndarray], part: slice) -> PyTree:
        index = call["index"]
        position = np.broadcast_to(np.arange(part.start, part.stop, dtype=np.int32), index.shape)
        others = jax.tree.map(lambda x: x[index], self._others)
        whole = {"index": index, "position": position, "rows": {**others, "faces": call["faces"]}}
        return placement.place(whole, self._devices, self._mapping)


def positions(index: np.ndarray) -> np.ndarray:
    """Place of every item in its global batch, for items [K, B, ...]: [K, B] int32."""
    return np.broadcast_to(np.arange(index.shape[1], dtype=np.int32), index.shape[:2]).copy()


def row_bytes(rows: Rows) -> int:
    """Bytes of all rows together."""
    return sum(int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(rows))


def _in_memory(rows: Images) -> Any:
    return rows if isinstance(rows, jax.Array) else rows[:]
