"""1:N identification: who is found among the distractors, and how often nobody is.

The protocol: for every ordered pair (i, j), i != j, of a person's T test images, the probe is protected image i and the
gallery is clean image j (the mate) plus all M distractors. The recogniser succeeds at rank k when the mate is among the
k most similar by cosine. One trial's gallery differs from the next only in its mate, so a trial needs no gallery and no
sort: the mate's rank is the number of distractors that are more similar to the probe than the mate is.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax.errors import UserError

GROUP = 16
"""Flags that are added in one byte; at most 127. Others were as fast."""


def ranks(probes: np.ndarray, mates: np.ndarray, distractors: np.ndarray, *, block: int = 1024) -> np.ndarray:
    """Distractors strictly more similar to each probe than its mate: 0 means that the mate comes first.

    probes [P, T, d]: unit-norm embeddings of the protected test images; mates [P, T, d]: of the clean ones, in the same
    order; distractors [M, d]. `block` distractors are compared at a time: P * T * block similarities are held at once.
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
    counts = np.array(_count_above(probes, mates, distractors, min(block, len(distractors))))
    diagonal = np.arange(probes.shape[1])
    counts[:, diagonal, diagonal] = -1
    return counts


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
    """Similarities of all probes to one block of distractors after another; [P, T, T] int32 counts above each mate."""
    highest = jax.lax.Precision.HIGHEST
    to_mates = jnp.einsum("pid,pjd->pij", probes, mates, precision=highest)
    blocks, rest = divmod(len(distractors), block)

    def above(rows: jax.Array) -> jax.Array:
        to_rows = jnp.einsum("pid,md->pim", probes, rows, precision=highest)
        return _sum(to_rows[:, :, None, :] > to_mates[:, :, :, None])

    def add(counts: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
        return counts + above(jax.lax.dynamic_slice_in_dim(distractors, start, block)), None

    counts = jax.lax.scan(add, jnp.zeros(to_mates.shape, jnp.int32), block * jnp.arange(blocks))[0]
    return counts + above(distractors[-rest:]) if rest else counts


def _sum(flags: jax.Array) -> jax.Array:
    """How many of the flags [..., n] are set, int32 [...].

    In groups of `GROUP` first, whose sums fit a byte: a CPU's vector holds four times as many of those as of int32, and
    a sum over an axis that is not the last needs no shuffling.
    """
    whole = flags.shape[-1] // GROUP * GROUP
    grouped = flags[..., :whole].reshape(*flags.shape[:-1], GROUP, whole // GROUP)
    sums = grouped.sum(-2, dtype=jnp.int8).sum(-1, dtype=jnp.int32)
    return sums + flags[..., whole:].sum(-1, dtype=jnp.int32)
