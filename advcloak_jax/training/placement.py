"""Which devices a job has, and arrays put on them: replicated, dealt in blocks of a batch, or shared along an axis.

Between two calls every array of the state is a global one, over the devices of all processes, which is what checkpoints
want. pmap takes and returns arrays of this process's devices alone; they are relabelled, and no data moves.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from advcloak_jax.data.rows import Images
from advcloak_jax.errors import UserError
from advcloak_jax.training.steps import DEVICES

PyTree = Any


def pick_devices(count: int, batch: int, batch_flag: str) -> list[jax.Device]:
    """The first `count` devices (0: all) of every process, process by process.

    Raises UserError when there are fewer or they cannot share a batch.
    """
    available = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    own = [[d for d in available if d.process_index == process] for process in range(jax.process_count())]
    least = min(map(len, own))
    if count > least:
        raise UserError(f"--devices {count} is more than the {least} of this machine; use at most that many.")
    if not count and len({len(devices) for devices in own}) > 1:
        raise UserError(f"The processes have different numbers of devices; set --devices to at most {least}.")
    devices = [device for some in own for device in some[: count or least]]
    if batch % len(devices):
        raise UserError(
            f"{batch_flag} {batch} cannot be shared by {len(devices)} devices; make it a multiple or set --devices."
        )
    return devices


def replicate(tree: PyTree, devices: list[jax.Device]) -> PyTree:
    """Put one copy of `tree`, the same at every process, on every device."""
    return relabelled(jax.device_put(tree, shardings(P(), own_devices(devices))), P(), devices)


def reside(tree: PyTree, devices: list[jax.Device], kind: str) -> PyTree:
    """`replicate` for what `parallelise` of this kind takes as its resident."""
    return replicate(tree, own_devices(devices) if kind == "pmap" else devices)


def own_copy(tree: PyTree) -> PyTree:
    """Every replicated array of `tree` as it lies on the first device of this process, without moving it.

    Work on these is this process's own business. Arrays that are shared between the devices stay as they are.
    """

    def own(x: PyTree) -> PyTree:
        return x.addressable_data(0) if isinstance(x, jax.Array) and x.is_fully_replicated else x

    return jax.tree.map(own, tree)


def own_block(batch: int) -> slice:
    """Which items of a global batch this process's devices work on."""
    size = batch // jax.process_count()
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def own_part(chunk: PyTree) -> PyTree:
    """This process's part [K, b, ...] of global batches [K, B, ...]: the block of its devices."""
    return jax.tree.map(lambda x: x[:, own_block(x.shape[1])], chunk)


def place(chunk: PyTree, devices: list[jax.Device], kind: str) -> PyTree:
    """This process's part of a chunk, put on its devices as `parallelise` of this kind deals it, ahead of the call."""
    if kind == "pmap":
        own = own_devices(devices)
        dealt = NamedSharding(Mesh(np.array(own), (DEVICES,)), P(DEVICES))
        return jax.tree.map(lambda x: jax.device_put(deal(x, len(own)), dealt), chunk)
    dealt = NamedSharding(Mesh(np.array(devices), (DEVICES,)), P(None, DEVICES))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(dealt, x), chunk)


def shard(rows: Images, devices: list[jax.Device], kind: str) -> jax.Array:
    """Rows [n, ...] shared between the devices of all processes, for `parallelise` of this kind with P(DEVICES).

    Device i of D holds rows i * k to (i + 1) * k - 1, with k = n / D rounded up; behind the last row are zeros. Each
    part is read when it is put on its device.
    """
    each = -(-len(rows) // len(devices))

    def part(device: int) -> np.ndarray:
        own = np.asarray(rows[device * each : (device + 1) * each])
        return np.pad(own, [(0, each - len(own)), *[(0, 0)] * (own.ndim - 1)])

    if kind == "pmap":
        own = own_devices(devices)
        first = devices.index(own[0])
        return jax.make_array_from_callback(
            (len(own), each, *rows.shape[1:]),
            NamedSharding(Mesh(np.array(own), (DEVICES,)), P(DEVICES)),
            lambda index: part(first + _start(index))[None],
        )
    return jax.make_array_from_callback(
        (len(devices) * each, *rows.shape[1:]),
        NamedSharding(Mesh(np.array(devices), (DEVICES,)), P(DEVICES)),
        lambda index: part(_start(index) // each),
    )


def _start(index: tuple[slice, ...] | None) -> int:
    """Where the part of an array that JAX asks for begins on the first axis."""
    return (index[0].start if index else None) or 0


def shardings(specs: PyTree, devices: list[jax.Device]) -> PyTree:
    """Placement on the devices for every PartitionSpec over DEVICES."""
    mesh = Mesh(np.array(devices), (DEVICES,))
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=is_spec)


def own_devices(devices: list[jax.Device]) -> list[jax.Device]:
    """Those of this process."""
    return [device for device in devices if device.process_index == jax.process_index()]


def relabelled(tree: PyTree, specs: PyTree, devices: list[jax.Device]) -> PyTree:
    """Arrays over this process's devices as parts of arrays over the devices of all, or the other way round.

    specs: a PartitionSpec for each, or one for all. What is shared along an axis grows, or shrinks, by that axis.
    """
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(devices), (DEVICES,))

    def relabel(x: jax.Array, spec: P) -> jax.Array:
        shape, axis = list(x.shape), shared_axis(spec)
        parts = [part.data for part in x.addressable_shards]
        if axis is not None:
            shape[axis] = parts[0].shape[axis] * len(devices)
        return jax.make_array_from_single_device_arrays(tuple(shape), NamedSharding(mesh, spec), parts)

    if is_spec(specs):
        return jax.tree.map(lambda x: relabel(x, specs), tree)
    return jax.tree.map(relabel, tree, specs)


def is_placed(chunk: PyTree) -> bool:
    """Whether a chunk is on the devices already."""
    return isinstance(jax.tree.leaves(chunk)[0], jax.Array)


def is_spec(value: Any) -> bool:
    """Whether a value is a PartitionSpec, which JAX would take for a tree of its own."""
    return isinstance(value, P)


def shared_axis(spec: P) -> int | None:
    """Which axis of an array is shared between the devices; None when each has all of it."""
    return tuple(spec).index(DEVICES) if DEVICES in tuple(spec) else None


def deal(chunk: np.ndarray, devices: int) -> np.ndarray:
    """[K, B, ...] -> [devices, K, B / devices, ...]: device i gets the i-th block of every batch."""
    steps, batch = chunk.shape[:2]
    return np.moveaxis(chunk.reshape(steps, devices, batch // devices, *chunk.shape[2:]), 1, 0)
