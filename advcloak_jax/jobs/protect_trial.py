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
    clean: np.ndarray,
    protected: np.ndarray,
    crowd: np.ndarray | None,
    store: Store,
) -> list[Outcome]:
    """Each target on the crops [T, S, S, 3] uint8 of the clean and the protected photos, among a crowd [M, S, S, 3].

    Of the crowd alone embeddings are kept in the store.
    """
    outcomes = []
    others = None if crowd is None or len(clean) < 2 else hashed(crowd, "distractors")
    faces = 2 * len(clean) + (0 if others is None else len(others.images))
    with Progress("trying the photos", faces * len(targets), "faces") as progress:
        for one in targets:
            own, worn = (embed(one.target, crops, progress) for crops in (clean, protected))
            hidden = {}
            if others is not None:
                strangers = stored_embeddings(store, one, others, progress)
                ranks = [identification.ranks(probes[None], own[None], strangers) for probes in (own, worn)]
                for k in SHOWN:
                    before, after = (float(identification.protection(found, k)[0]) for found in ranks)
                    hidden[k] = (before, after)
            outcomes.append(Outcome(one.target.name, _cosines(own, own), _cosines(worn, own), hidden))
    return outcomes


def _cosines(probes: np.ndarray, own: np.ndarray) -> list[float]:
    """Mean cosine of every probe [T, d] to the person's other photos [T, d]."""
    cosines = probes @ own.T
    count = len(own)
    if count == 1:
        return [float(cosines[0, 0])]
    return [float(mean) for mean in (cosines.sum(1) - np.diag(cosines)) / (count - 1)]


def text_table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as aligned text: means over the photos."""
    head = ("recogniser", "cosine before", "after", *(f"hidden from top-{k}, %" for k in SHOWN))
    rows = [head]
    for one in outcomes:
        shares = [f"{one.hidden[k][0]:.1f} -> {one.hidden[k][1]:.1f}" if one.hidden else "-" for k in SHOWN]
        rows.append((one.name, f"{np.mean(one.before):.3f}", f"{np.mean(one.after):.3f}", *shares))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
