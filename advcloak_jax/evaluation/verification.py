"""1:1 verification: are two images of the same person? How good a recogniser is before anyone wears a cloak."""

from typing import Any, NamedTuple

import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import roc
from advcloak_jax.evaluation.folds import best_threshold, cross_validate
from advcloak_jax.evaluation.roc import by_kind

FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)


class Pairs(NamedTuple):
    """Pairs of images: indices `first`, `second` [m] int64 and `same` [m] bool, the same-person pairs first."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray


class Histogram(NamedTuple):
    """Cosines of pairs: `edges` [bins + 1]; `same`, `different` [bins], the fraction of each kind in each bin."""

    edges: np.ndarray
    same: np.ndarray
    different: np.ndarray


def pairs(identity: np.ndarray, same: int, different: int, seed: int) -> Pairs:
    """Draw up to `same` pairs of one person and `different` of two, uniformly over all such pairs, none twice.

    identity: [n] int. All pairs of a kind are taken when there are no more than asked for.
    Pairs are numbered and their numbers drawn, so neither memory nor time depends on n squared.
    Raises UserError when nobody has two images or all images are of one person.
    """
    identity = np.asarray(identity)
    order = np.argsort(identity, kind="stable")
    _, counts = np.unique(identity, return_counts=True)
    rng = np.random.default_rng(seed)
    same_pairs = order[_same_pairs(counts, same, rng)]
    different_pairs = order[_different_pairs(counts, different, rng)]
    first, second = np.concatenate([same_pairs, different_pairs], axis=1)
    return Pairs(first, second, np.arange(len(first)) < same_pairs.shape[1])


def cosine(embeddings: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Cosine similarity of each pair, [m] float32, of unit-norm embeddings [n, d]."""
    return np.einsum("md,md->m", embeddings[pairs.first], embeddings[pairs.second])


def auc(scores: np.ndarray, same: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a same-person pair scores above a different one, ties counting half.

    scores: [m] float; same: [m] bool.
    """
    positive, negative = by_kind(scores, same)
    negative = np.sort(negative)
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / (2 * len(negative)))


def best_accuracy(scores: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """Highest balanced accuracy of one threshold, and the threshold, chosen on these very pairs.

    See `folds.best_threshold`. scores: [m] float; same: [m] bool.
    """
    return best_threshold(scores, same, balanced=True)


def tar_at_far(scores: np.ndarray, same: np.ndarray, rate: float) -> float:
    """True accept rate at the lowest threshold whose false accept rate is at most `rate`; both are fractions.

    scores: [m] float; same: [m] bool.
    """
    positive, negative = by_kind(scores, same)
    allowed = int(rate * len(negative) + 1e-9)
    if allowed >= len(negative):
        return 1.0
    # Accepting only what scores above the (allowed + 1)-th highest different pair accepts at most `allowed` of them.
    limit = np.partition(negative, len(negative) - 1 - allowed)[len(negative) - 1 - allowed]
    return float((positive > limit).mean())


def rank1(embeddings: np.ndarray, identity: np.ndarray, *, block: int = 4096) -> float:
    """Share of images whose most similar gallery image is of the same person; the gallery is everybody's first image.

    embeddings: [n, d] unit norm; identity: [n] int. `block` probes are compared at a time.
    Raises UserError when nobody has two images.
    """
    identity = np.asarray(identity)
    people, gallery = np.unique(identity, return_index=True)
    probes = np.setdiff1d(np.arange(len(identity)), gallery)
    if len(probes) == 0:
        raise UserError("Rank-1 accuracy needs a person with at least 2 images.")
    faces = embeddings[gallery].T
    blocks = np.split(probes, np.arange(block, len(probes), block))
    found = [people[np.argmax(embeddings[rows] @ faces, axis=1)] == identity[rows] for rows in blocks]
    return float(np.concatenate(found).mean())


def histogram(scores: np.ndarray, same: np.ndarray, *, bins: int = 80) -> Histogram:
    """Distribution of the cosines [m] of same and of different persons over -1..1."""
    positive, negative = by_kind(scores, same)
    edges = np.linspace(-1, 1, bins + 1)
    of_same, of_different = (np.histogram(np.clip(part, -1, 1), edges)[0] for part in (positive, negative))
    return Histogram(edges, of_same / len(positive), of_different / len(negative))


def mirrored_sum(plain: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Embedding of a face and its mirror image together, [n, d] unit norm, of those of each, [n, d] unit norm.

    Both weigh the same. (Code that adds features before it normalises them gives the longer one more weight.)
    """
    both = plain + mirrored
    return both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)


def summary(
    embeddings: np.ndarray, identity: np.ndarray, *, same: int = 20000, different: int = 20000, seed: int = 0
) -> dict[str, Any]:
    """What one recogniser does on pairs drawn by `pairs`, ready for JSON: `measures` and "rank1".

    embeddings: [n, d] unit norm; identity: [n] int.
    """
    drawn = pairs(identity, same, different, seed)
    return measures(cosine(embeddings, drawn), drawn.same) | {"rank1": rank1(embeddings, identity)}


def measures(scores: np.ndarray, same: np.ndarray, fold: np.ndarray | None = None) -> dict[str, Any]:
    """What the scores of pairs tell about a recogniser, ready for JSON.

    scores: [m] float; same: [m] bool; fold: [m] labels for the accuracy over folds ("folds", else None). "accuracy" is
    balanced, at the "threshold" that is best on these very pairs. A false accept rate finer than one of the different
    pairs cannot be measured: its "tar" is None.
    """
    accuracy, threshold = best_accuracy(scores, same)
    negatives = int((~same).sum())
    bars = histogram(scores, same)
    return {
        "same_pairs": int(same.sum()),
        "different_pairs": negatives,
        "auc": auc(scores, same),
        "accuracy": accuracy,
        "threshold": threshold,
        "folds": None if fold is None else cross_validate(scores, same, fold).to_json(),
        "tar": {
            f"{rate:g}": tar_at_far(scores, same, rate) if rate * negatives >= 1 - 1e-9 else None
            for rate in FALSE_ACCEPT_RATES
        },
        "eer": roc.equal_error_rate(roc.curve(scores, same)),
        "histogram": {name: part.tolist() for name, part in bars._asdict().items()},
    }


def _draw(total: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `wanted` different numbers below `total`."""
    return np.sort(rng.choice(total, size=min(wanted, total), replace=False, shuffle=False))


def _same_pairs(counts: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """[2, .] positions of same-person pairs among images sorted by person, of whom there are `counts`.

    Person after person, the pairs (a, b), a < b, are numbered b (b - 1) / 2 + a.
    """
    ends = np.cumsum(counts * (counts - 1) // 2)
    if ends[-1] == 0:
        raise UserError("Verification needs a person with at least 2 images.")
    number = _draw(int(ends[-1]), wanted, rng)
    person = np.searchsorted(ends, number, "right")
    number = number - (ends - counts * (counts - 1) // 2)[person]
    b = ((1 + np.sqrt(1 + 8 * number)) / 2).astype(np.int64)
    a = number - b * (b - 1) // 2
    return np.stack([a, b]) + (np.cumsum(counts) - counts)[person]


def _different_pairs(counts: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """[2, .] positions of different-person pairs: each image with all images of the persons after its own."""
    last = np.repeat(np.cumsum(counts), counts)
    ends = np.cumsum(last[-1] - last)
    if ends[-1] == 0:
        raise UserError("Verification needs images of at least 2 persons.")
    number = _draw(int(ends[-1]), wanted, rng)
    first = np.searchsorted(ends, number, "right")
    return np.stack([first, number - (ends - (last[-1] - last))[first] + last[first]])
