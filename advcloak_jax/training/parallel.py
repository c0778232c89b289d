"""Steps spread over the devices of all processes: pmap or shard_map around several steps, with the same results.

Between two calls every array of the state is a global one, over the devices of all processes, which is what checkpoints
want. pmap takes and returns arrays of this process's devices alone; they are relabelled, and no data moves.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from advcloak_jax.errors import UserError
from advcloak_jax.training.guard import guarded
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
    return _relabelled(jax.device_put(tree, shardings(P(), _own(devices))), P(), devices)


def reside(tree: PyTree, devices: list[jax.Device], kind: str) -> PyTree:
    """`replicate` for what `parallelise` of this kind takes as its resident."""
    return replicate(tree, _own(devices) if kind == "pmap" else devices)


def own_copy(tree: PyTree) -> PyTree:
    """Every replicated array of `tree` as it lies on the first device of this process, without moving it.

    Work on these is this process's own business. Arrays that are shared between the devices stay as they are.
    """

    def own(x: PyTree) -> PyTree:
        return x.addressable_data(0) if isinstance(x, jax.Array) and x.is_fully_replicated else x

    return jax.tree.map(own, tree)


def own_part(chunk: PyTree) -> PyTree:
    """This process's part [K, b, ...] of global batches [K, B, ...]: the block of its devices."""
    process, count = jax.process_index(), jax.process_count()

    def part(x: np.ndarray) -> np.ndarray:
        size = x.shape[1] // count
        return x[:, process * size : (process + 1) * size]

    return jax.tree.map(part, chunk)


def shardings(specs: PyTree, devices: list[jax.Device]) -> PyTree:
    """Placement on the devices for every PartitionSpec over DEVICES."""
    mesh = Mesh(np.array(devices), (DEVICES,))
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)


def scan_steps(
    bind: Callable[[PyTree], Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]],
    gather: Callable[[PyTree, PyTree, jax.Array], PyTree],
    *,
    unroll: bool,
    on_nan: str | None = None,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]:
    """Several steps in one call: (state, resident, chunk) -> (state, metrics of each step [K]).

    resident: what stays on the device (faces, embeddings, frozen networks, the root key). chunk: arrays [K, b] of
    indices. bind(resident) -> step. gather(resident, item [b], step number) -> batch of one step, made on the device.
    unroll: write the steps out instead of looping. XLA's CPU backend runs a convolution inside a loop about 20 times
    slower than outside, so CPUs want it; accelerators do not, because it compiles longer.
    on_nan: "stop" marks steps with a loss or an update that is not finite, "skip" drops their update (guard.py).
    """

    def run(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        step = bind(resident)
        if on_nan is not None:
            step = guarded(step, skip=on_nan == "skip")

        def body(state: PyTree, item: PyTree) -> tuple[PyTree, PyTree]:
            return step(state, gather(resident, item, state.step))

        if not unroll:
            return lax.scan(body, state, chunk)
        collected = []
        # lax.scan(unroll=True) would leave a loop around a single step.
        for i in range(jax.tree.leaves(chunk)[0].shape[0]):
            state, metrics = body(state, jax.tree.map(lambda x, i=i: x[i], chunk))
            collected.append(metrics)
        return state, jax.tree.map(lambda *values: jnp.stack(values), *collected)

    return run


def parallelise(
    run: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
    devices: list[jax.Device],
    kind: str,
    specs: PyTree = None,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]:
    """Map `run` over devices: state (donated) and resident replicated, chunk [K, B] shared along its second axis.

    Each process brings its `own_part` of the chunk, and a resident from `reside`.
    kind: "pmap" or "shard_map". check_vma is off because with it the gradient of replicated parameters arrives already
    summed, and the mean over devices in the steps would not undo that.
    specs: a PartitionSpec for each array of the state, when some are shared instead: `run` sees its device's part.
    """
    if kind == "pmap":
        return _with_pmap(run, devices, specs)
    mesh = Mesh(np.array(devices), (DEVICES,))
    of_state = P() if specs is None else specs
    in_specs, out_specs = (of_state, P(), P(None, DEVICES)), (of_state, P())
    mapped = jax.jit(
        jax.shard_map(run, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False), donate_argnums=0
    )
    if jax.process_count() == 1:
        return mapped
    spread = NamedSharding(mesh, P(None, DEVICES))

    def call(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        parts = jax.tree.map(lambda x: jax.make_array_from_process_local_data(spread, x), chunk)
        return mapped(state, resident, parts)

    return call


def _with_pmap(
    run: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]], devices: list[jax.Device], specs: PyTree
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]:
    axes = None if specs is None else jax.tree.map(_shared_axis, specs, is_leaf=_is_spec)
    own = _own(devices)
    mapped = jax.pmap(
        run,
        axis_name=DEVICES,
        in_axes=(axes, None, 0),
        out_axes=(axes, None),
        devices=devices,
        donate_argnums=0,
    )

    def call(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        return mapped(state, resident, jax.tree.map(lambda x: _deal(x, len(own)), chunk))

    if specs is None:

        def call_with_copies(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
            state, metrics = call(_relabelled(state, P(), own), resident, chunk)
            return _relabelled(state, P(), devices), metrics

        return call_with_copies

    # A shared axis [n] must come as [devices, n / devices]. Nothing moves: each device's memory stays as it is.
    def cut(x: jax.Array, spec: P) -> jax.Array:
        axis = _shared_axis(spec)
        return x if axis is None else x.reshape(*x.shape[:axis], len(own), -1, *x.shape[axis + 1 :])

    def join(x: jax.Array, spec: P) -> jax.Array:
        axis = _shared_axis(spec)
        return x if axis is None else x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    cut_all, join_all = (
        jax.jit(
            lambda state, change=change: jax.tree.map(change, state, specs),
            donate_argnums=0,
            out_shardings=shardings(specs, own),
        )
        for change in (cut, join)
    )

    def call_with_shared(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        state, metrics = call(cut_all(_relabelled(state, specs, own)), resident, chunk)
        return _relabelled(join_all(state), specs, devices), metrics

    return call_with_shared


def _own(devices: list[jax.Device]) -> list[jax.Device]:
    """Those of this process."""
    return [device for device in devices if device.process_index == jax.process_index()]


def _relabelled(tree: PyTree, specs: PyTree, devices: list[jax.Device]) -> PyTree:
    """Arrays over this process's devices as parts of arrays over the devices of all, or the other way round.

    specs: a PartitionSpec for each, or one for all. What is shared along an axis grows, or shrinks, by that axis.
    """
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(devices), (DEVICES,))

    def relabel(x: jax.Array, spec: P) -> jax.Array:
        shape, axis = list(x.shape), _shared_axis(spec)
        parts = [part.data for part in x.addressable_shards]
        if axis is not None:
            shape[axis] = parts[0].shape[axis] * len(devices)
        return jax.make_array_from_single_device_arrays(tuple(shape), NamedSharding(mesh, spec), parts)

    if _is_spec(specs):
        return jax.tree.map(lambda x: relabel(x, specs), tree)
    return jax.tree.map(relabel, tree, specs)


def _is_spec(value: Any) -> bool:
    return isinstance(value, P)


def _shared_axis(spec: P) -> int | None:
    """Which axis of an array is shared between the devices; None when each has all of it."""
    return tuple(spec).index(DEVICES) if DEVICES in tuple(spec) else None


def wants_unrolling(devices: list[jax.Device]) -> bool:
    """Whether `scan_steps` should unroll for these devices."""
    return devices[0].platform == "cpu"


def _deal(chunk: np.ndarray, devices: int) -> np.ndarray:
    """[K, B, ...] -> [devices, K, B / devices, ...]: device i gets the i-th block of every batch."""
    steps, batch = chunk.shape[:2]
    return np.moveaxis(chunk.reshape(steps, devices, batch // devices, *chunk.shape[2:]), 1, 0)
