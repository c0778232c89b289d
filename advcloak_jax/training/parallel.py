"""Steps spread over devices: pmap or shard_map around a scan of several steps, with the same results."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from advcloak_jax.errors import UserError
from advcloak_jax.training.steps import DEVICES

PyTree = Any


def pick_devices(count: int, batch: int, batch_flag: str) -> list[jax.Device]:
    """The first `count` local devices (0: all). Raises UserError when there are fewer or they cannot share a batch."""
    available = jax.local_devices()
    if count > len(available):
        raise UserError(f"--devices {count} is more than the {len(available)} of this machine; use at most that many.")
    devices = available[: count or len(available)]
    if batch % len(devices):
        raise UserError(
            f"{batch_flag} {batch} cannot be shared by {len(devices)} devices; make it a multiple or set --devices."
        )
    return devices


def replicate(tree: PyTree, devices: list[jax.Device]) -> PyTree:
    """Put one copy of `tree` on every device."""
    return jax.device_put(tree, shardings(P(), devices))


def shardings(specs: PyTree, devices: list[jax.Device]) -> PyTree:
    """Placement on the devices for every PartitionSpec over DEVICES."""
    mesh = Mesh(np.array(devices), (DEVICES,))
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)


def scan_steps(
    bind: Callable[[PyTree], Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]],
    gather: Callable[[PyTree, PyTree, jax.Array], PyTree],
    *,
    unroll: bool,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]:
    """Several steps in one call: (state, resident, chunk) -> (state, metrics of each step [K]).

    resident: what stays on the device (faces, embeddings, frozen networks, the root key). chunk: arrays [K, b] of
    indices. bind(resident) -> step. gather(resident, item [b], step number) -> batch of one step, made on the device.
    unroll: write the steps out instead of looping. XLA's CPU backend runs a convolution inside a loop about 20 times
    slower than outside, so CPUs want it; accelerators do not, because it compiles longer.
    """

    def run(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        step = bind(resident)

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

    kind: "pmap" or "shard_map". check_vma is off because with it the gradient of replicated parameters arrives already
    summed, and the mean over devices in the steps would not undo that.
    specs: a PartitionSpec for each array of the state, when some are shared instead: `run` sees its device's part.
    """
    if kind == "pmap":
        return _with_pmap(run, devices, specs)
    mesh = Mesh(np.array(devices), (DEVICES,))
    of_state = P() if specs is None else specs
    in_specs, out_specs = (of_state, P(), P(None, DEVICES)), (of_state, P())
    return jax.jit(
        jax.shard_map(run, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False), donate_argnums=0
    )


def _with_pmap(
    run: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]], devices: list[jax.Device], specs: PyTree
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]:
    axes = None if specs is None else jax.tree.map(_shared_axis, specs, is_leaf=_is_spec)
    mapped = jax.pmap(
        run,
        axis_name=DEVICES,
        in_axes=(axes, None, 0),
        out_axes=(axes, None),
        devices=devices,
        donate_argnums=0,
    )

    def call(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        return mapped(state, resident, jax.tree.map(lambda x: _deal(x, len(devices)), chunk))

    if specs is None:
        return call

    # A shared axis [n] must come as [devices, n / devices]. Nothing moves: each device's memory stays as it is.
    def cut(x: jax.Array, spec: P) -> jax.Array:
        axis = _shared_axis(spec)
        return x if axis is None else x.reshape(*x.shape[:axis], len(devices), -1, *x.shape[axis + 1 :])

    def join(x: jax.Array, spec: P) -> jax.Array:
        axis = _shared_axis(spec)
        return x if axis is None else x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    cut_all, join_all = (
        jax.jit(
            lambda state, change=change: jax.tree.map(change, state, specs),
            donate_argnums=0,
            out_shardings=shardings(specs, devices),
        )
        for change in (cut, join)
    )

    def call_with_shared(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        state, metrics = call(cut_all(state), resident, chunk)
        return join_all(state), metrics

    return call_with_shared


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
