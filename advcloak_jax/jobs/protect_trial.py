"""How well a person's protected photos hide, tried on recognisers of the user's choice."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from advcloak_jax.evaluation import identification
from advcloak_jax.evaluation.store import Store
from advcloak_jax.jobs.targets import LoadedTarget, embed, hashed, stored_embeddings
from advcloak_jax.progress import Progress

SHOWN = (1, 5)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One recogniser on T photos. before, after: [T] mean cosine of each photo, clean and protected, to the person's
    other clean photos (of a single photo: to itself). hidden: percent of trials, k -> (before, after), in which another
    photo of the person is not among the k most similar of distractors; empty without distractors.
    """

    name: str
    before: list[float]
    after: list[float]
    hidden: dict[int, tuple[float, float]]


def try_out(
    targets: Sequence[LoadedTarget],
    mates: np.ndarray,
    clean: np.ndarray,
    worn: np.ndarray,
    crowd: np.ndarray | None,
    store: Store,
) -> list[Outcome]:
    """Each target on the person's crops [T, S, S, 3] uint8, which are looked for among a crowd [M, S, S, 3].

    mates: of the clean photos, as the recogniser's owner has them; clean, worn: of the photos without and with the
    cloak, as others get to see them. Of the crowd alone embeddings are kept in the store.
    """
    outcomes = []
    others = None if crowd is None else hashed(crowd, "distractors")
    faces = 3 * len(mates) + (0 if others is None else len(others.images))
    with Progress("trying the photos", faces * len(targets), "faces") as progress:
        for one in targets:
            own, *probes = (embed(one.target, crops, progress) for crops in (mates, clean, worn))
            before, after = (_cosines(seen, own) for seen in probes)
            hidden = {}
            if others is not None:
                strangers = stored_embeddings(store, one, others, progress)
                found = [ranks(seen, own, strangers) for seen in probes]
                for k in SHOWN:
                    shares = [float(identification.protection(ranked[None], k)[0]) for ranked in found]
                    hidden[k] = (shares[0], shares[1])
            outcomes.append(Outcome(one.target.name, before, after, hidden))
    return outcomes


def ranks(probes: np.ndarray, mates: np.ndarray, strangers: np.ndarray) -> np.ndarray:
    """`identification.ranks` of one person with many photos: probes, mates [T, d], strangers [M, d] -> [T, T] int32.

    A sort for each probe: its memory does not grow with T * T * M, nor is anything compiled for T.
    """
    found = np.empty((len(probes), len(mates)), np.int32)
    for row, probe in zip(found, probes, strict=True):
        row[:] = len(strangers) - np.searchsorted(np.sort(strangers @ probe), mates @ probe, "right")
    np.fill_diagonal(found, -1)
    return found


def _cosines(probes: np.ndarray, own: np.ndarray) -> list[float]:
    """Mean cosine of every probe [T, d] to the person's other photos [T, d]."""
    count = len(own)
    itself = np.einsum("td,td->t", probes, own)
    if count == 1:
        return [float(itself[0])]
    return [float(mean) for mean in (probes @ own.sum(0) - itself) / (count - 1)]


def text_table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as aligned text: means over the photos."""
    head = ("recogniser", "cosine before", "after", *(f"hidden from top-{k}, %" for k in SHOWN))
    rows = [head]
    for one in outcomes:
        shares = [f"{one.hidden[k][0]:.1f} -> {one.hidden[k][1]:.1f}" if one.hidden else "-" for k in SHOWN]
        rows.append((one.name, f"{np.mean(one.before):.3f}", f"{np.mean(one.after):.3f}", *shares))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
