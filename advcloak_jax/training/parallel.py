"""Steps spread over the devices of all processes: pmap or shard_map around several steps, with the same results."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from advcloak_jax.errors import UserError
from advcloak_jax.training import placement
from advcloak_jax.training.accumulate import Parts
from advcloak_jax.training.guard import guarded
from advcloak_jax.training.steps import DEVICES

PyTree = Any


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
        return mapped(state, resident, chunk if placement.is_placed(chunk) else placement.place(chunk, devices, kind))

    return call


def _with_pmap(
    run: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
    devices: list[jax.Device],
    specs: PyTree,
    resident_specs: PyTree,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]:
    # The state goes in and out as a tuple: of several processes, pmap wants to hash where its axes are, dicts too.
    layout, axes = None, None
    if specs is not None:
        leaves, layout = jax.tree.flatten(specs, is_leaf=placement.is_spec)
        axes = tuple(map(placement.shared_axis, leaves))
    of_resident = jax.tree.map(placement.shared_axis, resident_specs, is_leaf=placement.is_spec)
    own = placement.own_devices(devices)

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
        dealt = chunk if placement.is_placed(chunk) else jax.tree.map(lambda x: placement.deal(x, len(own)), chunk)
        if layout is None:
            return mapped(state, resident, dealt)
        arrays, metrics = mapped(tuple(jax.tree.leaves(state)), resident, dealt)
        return jax.tree.unflatten(layout, arrays), metrics

    if specs is None:

        def call_with_copies(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
            state, metrics = call(placement.relabelled(state, P(), own), resident, chunk)
            return placement.relabelled(state, P(), devices), metrics

        return call_with_copies

    # A shared axis [n] must come as [devices, n / devices]. Nothing moves: each device's memory stays as it is.
    def cut(x: jax.Array, spec: P) -> jax.Array:
        axis = placement.shared_axis(spec)
        return x if axis is None else x.reshape(*x.shape[:axis], len(own), -1, *x.shape[axis + 1 :])

    def join(x: jax.Array, spec: P) -> jax.Array:
        axis = placement.shared_axis(spec)
        return x if axis is None else x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    cut_all, join_all = (
        jax.jit(
            lambda state, change=change: jax.tree.map(change, state, specs),
            donate_argnums=0,
            out_shardings=placement.shardings(specs, own),
        )
        for change in (cut, join)
    )

    def call_with_shared(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        state, metrics = call(cut_all(placement.relabelled(state, specs, own)), resident, chunk)
        return placement.relabelled(join_all(state), specs, devices), metrics

    return call_with_shared


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
