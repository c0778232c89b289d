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


def counted_in_bytes(size: Size, batch: int) -> Pair:
    """Counts in int32 over padded blocks, against in groups whose sums fit a byte, over the distractors as they are.

    250 times `batch` distractors; 500 persons with 5 images, of which size "quick" leaves 4 with 3. The new way also
    checks its input, as users call it.
    """
    persons, test = (4, 3) if size is SIZES["quick"] else (500, 5)
    options = argparse.Namespace(persons=persons, test=test, size=512)
    probes, mates, distractors = workload.make_embeddings(options, 250 * batch)

    def old() -> Any:
        missing = -len(distractors) % BLOCK
        blocks = np.pad(distractors, ((0, missing), (0, 0))).reshape(-1, BLOCK, distractors.shape[-1])
        counts = np.array(_in_words(probes, mates, blocks, jnp.int32(len(distractors))))
        counts[:, np.arange(test), np.arange(test)] = -1
        return counts

    return Pair(old, lambda: identification.ranks(probes, mates, distractors, block=BLOCK))


@jax.jit
def _in_words(probes: jax.Array, mates: jax.Array, blocks: jax.Array, count: jax.Array) -> jax.Array:
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


PAIRS: dict[str, Callable[[Size, int], Pair]] = {"1:N counted in bytes": counted_in_bytes}
