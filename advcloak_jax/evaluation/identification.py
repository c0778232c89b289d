"""1:N identification: who is found among the distractors, and how often nobody is.

The protocol: for every ordered pair (i, j), i != j, of a person's T test images, the probe is protected image i and the
gallery is clean image j (the mate) plus all M distractors. The recogniser succeeds at rank k when the mate is among the
k most similar by cosine. One trial's gallery differs from the next only in its mate, so a trial needs no gallery and no
sort: the mate's rank is the number of distractors that are more similar to the probe than the mate is.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax.errors import UserError

GROUP, BLOCKS = 16, 15
"""Similarities of one block, and blocks, that are counted in one byte; at most 255 together."""


def ranks(probes: np.ndarray, mates: np.ndarray, distractors: np.ndarray, *, block: int = 1024) -> np.ndarray:
    """Distractors strictly more similar to each probe than its mate: 0 means that the mate comes first.

    probes [P, T, d]: unit-norm embeddings of the protected test images; mates [P, T, d]: of the clean ones, in the same
    order; distractors [M, d]. At most `block` distractors are compared at a time: P * T * block similarities are held.
    Returns [P, T, T] int32: entry (p, i, j) is for probe i and mate j; the diagonal, which is no trial, is -1.
    A distractor exactly as similar as the mate does not push it back (similarities are float32).
    Raises UserError without distractors or a second test image, ValueError when shapes or norms are wrong.
    """
    probes, mates, distractors = (np.asarray(a, np.float32) for a in (probes, mates, distractors))
    if probes.ndim != 3 or probes.shape != mates.shape or distractors.ndim != 2:
        raise ValueError(f"wrong shapes: probes {probes.shape}, mates {mates.shape}, distractors {distractors.shape}")
    if probes.shape[-1] != distractors.shape[-1]:
        raise ValueError(f"embedding sizes differ: probes {probes.shape[-1]}, distractors {distractors.shape[-1]}")
    if len(distractors) == 0:
        raise UserError("Identification needs at least one distractor: leave some persons out of every other split.")
    if probes.shape[1] < 2:
        raise UserError("Identification needs at least 2 test images a person: a probe needs another as mate.")
    if block < 1:
        raise ValueError(f"block must be at least 1, not {block}")
    for name, embeddings in (("probes", probes), ("mates", mates), ("distractors", distractors)):
        norms = np.sqrt(np.einsum("...d,...d->...", embeddings, embeddings))
        # Written so that NaN fails too: a NaN similarity would silently count as "not more similar".
        if not np.all(np.abs(norms - 1) < 1e-3):
            raise ValueError(f"{name} must have unit norm")
    # As many blocks as asked for, but alike, so that few distractors are left over for a last one.
    alike = len(distractors) // -(-len(distractors) // block)
    return np.array(_count_above(probes, mates, distractors, alike // GROUP * GROUP or alike))


def protection(ranks: np.ndarray, k: int) -> np.ndarray:
    """Protection rate of each person at rank k: 100 - Top-k accuracy over the person's T * (T - 1) trials.

    ranks: [P, T, T] from `ranks`. Returns [P] float64 in percent.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    trials = ranks.shape[-1] * (ranks.shape[-1] - 1)
    # The diagonal is -1, below every k >= 1, so it never counts as hidden.
    return 100.0 * (ranks >= k).sum(axis=(-2, -1)) / trials


@functools.partial(jax.jit, static_argnames="block")
def _count_above(probes: jax.Array, mates: jax.Array, distractors: jax.Array, block: int) -> jax.Array:
    """Similarities of one block of distractors after another to all probes; [P, T, T] int32 counts above each mate."""
    highest = jax.lax.Precision.HIGHEST
    persons, images, size = probes.shape
    image = np.arange(images)[:, None]
    others = (image + np.arange(1, images)) % images
    to_mates = jnp.einsum("pid,pjd->pij", probes, mates, precision=highest)[:, image, others]
    limits = jnp.moveaxis(to_mates, -1, 0).reshape(images - 1, -1)
    flat = probes.reshape(-1, size)
    whole = len(distractors) // block

    def similarities(start: jax.Array | int, length: int) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(distractors, start, length)
        return jnp.einsum("md,nd->mn", rows, flat, precision=highest)

    def add(counts: jax.Array, starts: jax.Array) -> tuple[jax.Array, None]:
        return counts + _count_blocks(lambda start: similarities(start, block), starts, block, limits), None

    starts = block * jnp.arange(whole)
    together = whole // BLOCKS * BLOCKS
    counts = jax.lax.scan(add, jnp.zeros(limits.shape, jnp.int32), starts[:together].reshape(-1, BLOCKS))[0]
    if together < whole:
        counts, _ = add(counts, starts[together:])
    if rest := len(distractors) % block:
        counts += _count(similarities(len(distractors) - rest, rest), limits)
    by_image = jnp.moveaxis(counts.reshape(-1, persons, images), 0, -1)
    return jnp.full((persons, images, images), -1, jnp.int32).at[:, image, others].set(by_image)


def _count(similarities: jax.Array, limits: jax.Array) -> jax.Array:
    """How many of the similarities [m, n] are above each of the limits [t, n], int32 [t, n]."""
    return (similarities > limits[:, None]).sum(1, dtype=jnp.int32)


def _count_blocks(
    similarities: Callable[[jax.Array], jax.Array], starts: jax.Array, block: int, limits: jax.Array
) -> jax.Array:
    """The same for all of up to `BLOCKS` blocks of similarities [block, n], each made from one of `starts`.

    Counts of four limits are the bytes of a word, and a block adds to words [block / GROUP, n] element by element. Of
    that, XLA's CPU backend makes vector instructions, and not of sums over an axis; and similarities, which are more
    than a cache holds, are read once for four limits.
    """
    height = block // GROUP
    fours = [limits[first : first + 4] for first in range(0, len(limits), 4)]

    def packed(some: jax.Array, four: jax.Array) -> jax.Array:
        return sum((some > limit).astype(jnp.uint32) << 8 * place for place, limit in enumerate(four))

    def add(carry: tuple[list[jax.Array], jax.Array], start: jax.Array) -> tuple[Any, None]:
        words, counts = carry
        made = similarities(start)
        parts = [made[height * part : height * (part + 1)] for part in range(GROUP)]
        words = [word + sum(packed(part, four) for part in parts) for word, four in zip(words, fours, strict=True)]
        return (words, counts + _count(made[height * GROUP :], limits) if block % GROUP else counts), None

    words = [jnp.zeros((height, limits.shape[1]), jnp.uint32)] * len(fours)
    (words, counts), _ = jax.lax.scan(add, (words, jnp.zeros(limits.shape, jnp.int32)), starts)
    by_limit = [
        (word >> 8 * place & 255).sum(0, dtype=jnp.int32)
        for word, four in zip(words, fours, strict=True)
        for place in range(len(four))
    ]
    return counts + jnp.stack(by_limit)
