"""Candidates that are measured on a whole step. Each makes (size, images) -> the step as it was, and as it would be."""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from advcloak_jax import subspace
from advcloak_jax.networks import paired_columns, products, winograd
from benchmarks import workloads
from benchmarks.candidate_parts import NO_YNNPACK, OLD_FUSIONS, Pair, without_winograd
from benchmarks.sizes import STAGE_ONE, Size


def _step(kind: str, size: Size, batch: int, **how: Any) -> workloads.Workload:
    faces = workloads.noise_faces(batch, size.image, batch // 2)
    return workloads.stage(kind, size, faces, workloads.fresh_variables(size), **how)


def _last_losses(step: workloads.Workload) -> Any:
    """A call that returns the losses of its last step."""
    return lambda: jax.tree.map(lambda values: values[-1:], step())


def _pair(old: workloads.Workload, new: workloads.Workload) -> Pair:
    return Pair(_last_losses(old), _last_losses(new), old.steps, new.steps)


def originals_cached(size: Size, batch: int) -> Pair:
    """The originals embedded in every step, against once for all."""
    return _pair(_step(STAGE_ONE, size, batch, cached=False), _step(STAGE_ONE, size, batch))


def bfloat16(size: Size, batch: int) -> Pair:
    """Networks that compute in float32, against bfloat16 with float32 statistics, losses and parameters."""
    return _pair(_step(STAGE_ONE, size, batch), _step(STAGE_ONE, size, batch, dtype=jnp.bfloat16))


def steps_per_call(size: Size, batch: int) -> Pair:
    """One step a call, against two."""
    return _pair(_step(STAGE_ONE, size, batch), _step(STAGE_ONE, size, batch, dispatch=2))


def hull_projection(size: Size, batch: int) -> Pair:
    """A whole step of stage II, against its projection alone: the ratio is the inverse of its share."""
    step = _step("convex-hull", size, batch)
    known = jax.random.normal(jax.random.key(0), (2, batch // 2, size.embedding))
    known /= jnp.linalg.norm(known, axis=-1, keepdims=True)
    spaces = jax.jit(subspace.fit)(known)
    project = jax.jit(lambda spaces, given: subspace.project(spaces, given, kind="convex-hull", iterations=20))
    nothing = {"loss": jnp.zeros(1)}

    def alone() -> Any:
        jax.block_until_ready(project(spaces, known[:, ::-1]))
        return nothing

    def whole() -> Any:
        jax.block_until_ready(step())
        return nothing

    return Pair(whole, alone)


def without_products(kind: str) -> Callable[[Size, int], Pair]:
    """A step whose convolutions and gradients are all XLA's, against with those as matrix products that suit."""

    def make(size: Size, batch: int) -> Pair:
        with without_winograd():
            with mock.patch.object(products, "WORTHWHILE", math.inf):
                old = _step(kind, size, batch)
            return _pair(old, _step(kind, size, batch))

    return make


def fewer_multiplications(kind: str) -> Callable[[Size, int], Pair]:
    """A step whose 3x3 convolutions multiply every pixel of a tile with every tap, against Winograd's that suit."""

    def make(size: Size, batch: int) -> Pair:
        with without_winograd():
            old = _step(kind, size, batch)
        return _pair(old, _step(kind, size, batch))

    return make


def kernels_as_they_lie(kind: str) -> Callable[[Size, int], Pair]:
    """A step whose input gradients transform kernels turned round, against the kernels as they lie."""

    def turned(cotangent: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
        return winograd.convolve(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), 2 - padding)

    def make(size: Size, batch: int) -> Pair:
        with mock.patch.object(winograd, "input_gradient", turned):
            old = _step(kind, size, batch)
        return _pair(old, _step(kind, size, batch))

    return make


def columns_in_pairs(kind: str) -> Callable[[Size, int], Pair]:
    """A step whose convolutions of colours are XLA's, against two columns at once."""

    def make(size: Size, batch: int) -> Pair:
        with mock.patch.object(paired_columns, "OUTPUTS", 0):
            old = _step(kind, size, batch)
        return _pair(old, _step(kind, size, batch))

    return make


def flag(name: str, value: Any, kind: str) -> Callable[[Size, int], Pair]:
    """A step compiled as XLA does by itself, against with an option of its own."""

    def make(size: Size, batch: int) -> Pair:
        return _pair(_step(kind, size, batch), _step(kind, size, batch, compiler={name: value}))

    return make


PAIRS: dict[str, Callable[[Size, int], Pair]] = {
    "originals' embeddings cached": originals_cached,
    "bfloat16": bfloat16,
    "steps per call": steps_per_call,
    "projection's share of stage II": hull_projection,
    "convolutions as products, stage I": without_products(STAGE_ONE),
    "convolutions as products, stage II": without_products("convex-hull"),
    "Winograd's convolutions, stage I": fewer_multiplications(STAGE_ONE),
    "Winograd's convolutions, stage II": fewer_multiplications("convex-hull"),
    "kernels transformed as they lie, stage I": kernels_as_they_lie(STAGE_ONE),
    "kernels transformed as they lie, stage II": kernels_as_they_lie("convex-hull"),
    "columns in pairs, stage I": columns_in_pairs(STAGE_ONE),
    "columns in pairs, stage II": columns_in_pairs("convex-hull"),
    "flag: no YNNPACK convolutions, stage I": flag(*NO_YNNPACK, STAGE_ONE),
    "flag: no YNNPACK convolutions, stage II": flag(*NO_YNNPACK, "convex-hull"),
    "flag: older fusion kernels, stage I": flag(*OLD_FUSIONS, STAGE_ONE),
}
