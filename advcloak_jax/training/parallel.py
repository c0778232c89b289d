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

from advcloak_jax.data.rows import Images
from advcloak_jax.errors import UserError
from advcloak_jax.training.accumulate import Parts
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
        own = _own(devices)
        dealt = NamedSharding(Mesh(np.array(own), (DEVICES,)), P(DEVICES))
        return jax.tree.map(lambda x: jax.device_put(_deal(x, len(own)), dealt), chunk)
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
        own = _own(devices)
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
    resident_specs: PyTree = None,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]:
    """Map `run` over devices: state (donated) and resident replicated, chunk [K, B] shared along its second axis.

    Each process brings its `own_part` of the chunk, on the host or from `place`, and a resident from `reside`; what
    `resident_specs` has P(DEVICES) for comes from `shard`, and `run` sees its device's part.
    kind: "pmap" or "shard_map". check_vma is off because with it the gradient of replicated parameters arrives already
    summed, and the mean over devices in the steps would not undo that.
    specs: a PartitionSpec for each array of the state, when some are shared instead: `run` sees its device's part.
    """
    if kind == "pmap":
        return _with_pmap(run, devices, specs, resident_specs)
    mesh = Mesh(np.array(devices), (DEVICES,))
    of_state, of_resident = (P() if some is None else some for some in (specs, resident_specs))
    in_specs, out_specs = (of_state, of_resident, P(None, DEVICES)), (of_state, P())
    mapped = jax.jit(
        jax.shard_map(run, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False), donate_argnums=0
    )
    if jax.process_count() == 1:
        return mapped

    def call(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        return mapped(state, resident, chunk if _is_placed(chunk) else place(chunk, devices, kind))

    return call


def _with_pmap(
    run: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
    devices: list[jax.Device],
    specs: PyTree,
    resident_specs: PyTree,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]:
    # The state goes in and out as a tuple: of several processes, pmap wants to hash where its axes are, dicts too.
    layout = None if specs is None else jax.tree.structure(specs, is_leaf=_is_spec)
    axes = None if specs is None else tuple(map(_shared_axis, jax.tree.leaves(specs, is_leaf=_is_spec)))
    of_resident = jax.tree.map(_shared_axis, resident_specs, is_leaf=_is_spec)
    own = _own(devices)

    def on_arrays(arrays: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        if layout is None:
            return run(arrays, resident, chunk)
        state, metrics = run(jax.tree.unflatten(layout, arrays), resident, chunk)
        return tuple(jax.tree.leaves(state)), metrics

    mapped = jax.pmap(
        on_arrays,
        axis_name=DEVICES,
        in_axes=(axes, of_resident, 0),
        out_axes=(axes, None),
        devices=devices,
        donate_argnums=0,
    )

    def call(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        dealt = chunk if _is_placed(chunk) else jax.tree.map(lambda x: _deal(x, len(own)), chunk)
        if layout is None:
            return mapped(state, resident, dealt)
        arrays, metrics = mapped(tuple(jax.tree.leaves(state)), resident, dealt)
        return jax.tree.unflatten(layout, arrays), metrics

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


def _is_placed(chunk: PyTree) -> bool:
    """Whether a chunk is on the devices already."""
    return isinstance(jax.tree.leaves(chunk)[0], jax.Array)


def _is_spec(value: Any) -> bool:
    return isinstance(value, P)


def _shared_axis(spec: P) -> int | None:
    """Which axis of an array is shared between the devices; None when each has all of it."""
    return tuple(spec).index(DEVICES) if DEVICES in tuple(spec) else None


def wants_unrolling(devices: list[jax.Device]) -> bool:
    """Whether `scan_steps` should unroll for these devices."""
    return devices[0].platform == "cpu"


def parts_of(count: int, batch: int, devices: list[jax.Device], batch_flag: str) -> Parts:
    """`count` parts of every device's share of a global batch. Raises UserError when the share cannot be cut so."""
    share = batch // len(devices)
    if share % count:
        raise UserError(
            f"--accumulate {count} cannot cut each device's {share} of {batch_flag} {batch}; use a divisor of {share}."
        )
    return Parts(count, wants_unrolling(devices))


def _deal(chunk: np.ndarray, devices: int) -> np.ndarray:
    """[K, B, ...] -> [devices, K, B / devices, ...]: device i gets the i-th block of every batch."""
    steps, batch = chunk.shape[:2]
    return np.moveaxis(chunk.reshape(steps, devices, batch // devices, *chunk.shape[2:]), 1, 0)
