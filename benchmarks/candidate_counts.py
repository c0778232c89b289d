"""Candidates for the 1:N evaluation: how the distractors before each mate are counted, in a protocol of usual size."""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advcloak_jax.evaluation import identification
from benchmarks import identification as workload
from benchmarks.candidate_parts import Pair
from benchmarks.sizes import SIZES, Size

BLOCK = 1024


def make_embeddings(size: Size, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probes, mates and 250 times `batch` distractors; 500 persons with 5 images, but 4 with 3 of size "quick"."""
    persons, test = (4, 3) if size is SIZES["quick"] else (500, 5)
    return workload.make_embeddings(argparse.Namespace(persons=persons, test=test, size=512), 250 * batch)


def without_diagonal(counts: jax.Array) -> np.ndarray:
    """Counts [P, T, T] with -1 where there is no trial."""
    found = np.array(counts)
    place = np.arange(found.shape[-1])
    found[:, place, place] = -1
    return found


def counted_in_bytes(size: Size, batch: int) -> Pair:
    """Counts in int32 over padded blocks, against in groups whose sums fit a byte, over the distractors as they are."""
    probes, mates, distractors = make_embeddings(size, batch)

    def old() -> Any:
        missing = -len(distractors) % BLOCK
        blocks = np.pad(distractors, ((0, missing), (0, 0))).reshape(-1, BLOCK, distractors.shape[-1])
        return without_diagonal(_in_integers(probes, mates, blocks, jnp.int32(len(distractors))))

    return Pair(old, lambda: without_diagonal(_in_bytes(probes, mates, distractors)))


def counted_in_words(size: Size, batch: int) -> Pair:
    """Sums over an axis for one mate after another, the diagonal too, against four counts in a word added by element.

    The new way also checks its input, as users call it.
    """
    probes, mates, distractors = make_embeddings(size, batch)
    old = lambda: without_diagonal(_in_bytes(probes, mates, distractors))  # noqa: E731
    return Pair(old, lambda: identification.ranks(probes, mates, distractors, block=BLOCK))


@jax.jit
def _in_integers(probes: jax.Array, mates: jax.Array, blocks: jax.Array, count: jax.Array) -> jax.Array:
    """[P, T, T] distractors of blocks [n, BLOCK, d], of which the first `count` are real, above each mate."""
    highest = lax.Precision.HIGHEST
    to_mates = jnp.einsum("pid,pjd->pij", probes, mates, precision=highest)

    def add(counts: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        rows, real = block
        to_rows = jnp.einsum("pid,md->pim", probes, rows, precision=highest)
        above = (to_rows[:, :, None, :] > to_mates[:, :, :, None]) & real
        return counts + above.sum(-1, dtype=jnp.int32), None

    real = jnp.arange(blocks.shape[0] * BLOCK).reshape(-1, BLOCK) < count
    return lax.scan(add, jnp.zeros(to_mates.shape, jnp.int32), (blocks, real))[0]


@jax.jit
def _in_bytes(probes: jax.Array, mates: jax.Array, distractors: jax.Array) -> jax.Array:
    """The same of distractors [M, d], in groups of 16 whose sums fit a byte."""
    highest = lax.Precision.HIGHEST
    to_mates = jnp.einsum("pid,pjd->pij", probes, mates, precision=highest)
    block = min(BLOCK, len(distractors))
    whole = len(distractors) // block

    def above(rows: jax.Array) -> jax.Array:
        flags = jnp.einsum("pid,md->pim", probes, rows, precision=highest)[:, :, None, :] > to_mates[:, :, :, None]
        even = flags.shape[-1] // 16 * 16
        grouped = flags[..., :even].reshape(*flags.shape[:-1], 16, even // 16)
        sums = grouped.sum(-2, dtype=jnp.int8).sum(-1, dtype=jnp.int32)
        return sums + flags[..., even:].sum(-1, dtype=jnp.int32)

    def add(counts: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
        return counts + above(lax.dynamic_slice_in_dim(distractors, start, block)), None

    counts = lax.scan(add, jnp.zeros(to_mates.shape, jnp.int32), block * jnp.arange(whole))[0]
    return counts + above(distractors[whole * block :]) if len(distractors) % block else counts


PAIRS: dict[str, Callable[[Size, int], Pair]] = {
    "1:N counted in bytes": counted_in_bytes,
    "1:N counted in words of four": counted_in_words,
}
