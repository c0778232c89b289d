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
    return jax.device_put(tree, NamedSharding(Mesh(np.array(devices), (DEVICES,)), P()))


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
    run: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]], devices: list[jax.Device], kind: str
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]:
    """Map `run` over devices: state (donated) and resident replicated, chunk [K, B] shared along its second axis.

    kind: "pmap" or "shard_map". check_vma is off because with it the gradient of replicated parameters arrives already
    summed, and the mean over devices in the steps would not undo that.
    """
    if kind == "pmap":
        mapped = jax.pmap(
            run,
            axis_name=DEVICES,
            in_axes=(None, None, 0),
            out_axes=(None, None),
            devices=devices,
            donate_argnums=0,
        )

        def call(state: PyTree, resident: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
            return mapped(state, resident, jax.tree.map(lambda x: _deal(x, len(devices)), chunk))

        return call
    mesh = Mesh(np.array(devices), (DEVICES,))
    return jax.jit(
        jax.shard_map(run, mesh=mesh, in_specs=(P(), P(), P(None, DEVICES)), out_specs=(P(), P()), check_vma=False),
        donate_argnums=0,
    )


def wants_unrolling(devices: list[jax.Device]) -> bool:
    """Whether `scan_steps` should unroll for these devices."""
    return devices[0].platform == "cpu"


def _deal(chunk: np.ndarray, devices: int) -> np.ndarray:
    """[K, B, ...] -> [devices, K, B / devices, ...]: device i gets the i-th block of every batch."""
    steps, batch = chunk.shape[:2]
    return np.moveaxis(chunk.reshape(steps, devices, batch // devices, *chunk.shape[2:]), 1, 0)
