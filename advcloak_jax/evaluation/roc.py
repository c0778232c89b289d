"""Receiver operating characteristic: what share of same pairs is accepted for what share of false accepts."""

from typing import NamedTuple

import numpy as np


class Roc(NamedTuple):
    """Corners of the curve, [k] float64 each, both rates ascending from (0, 0) to (1, 1).

    far: share of different pairs accepted; tar: share of same pairs accepted; threshold: a pair counts as the same
    person when its score is at least this (infinite at (0, 0)).
    """

    far: np.ndarray
    tar: np.ndarray
    threshold: np.ndarray


def by_kind(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of same and of different pairs. Raises ValueError when there are none of a kind."""
    positive, negative = scores[same], scores[~same]
    if len(positive) == 0 or len(negative) == 0:
        raise ValueError("verification needs pairs of both kinds")
    return positive, negative


def curve(scores: np.ndarray, same: np.ndarray) -> Roc:
    """The exact curve through every different score; points on a straight line between others are left out.

    scores: [m] float; same: [m] bool, of both kinds.
    """
    positive, negative = by_kind(scores, same)
    thresholds = np.unique(scores)[::-1]
    accepted = [len(part) - np.searchsorted(np.sort(part), thresholds, "left") for part in (negative, positive)]
    false, true = (np.concatenate([[0], counts]) for counts in accepted)
    bends = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
    kept = np.concatenate([[True], bends, [True]])
    limits = np.concatenate([[np.inf], thresholds]).astype(np.float64)
    return Roc(false[kept] / len(negative), true[kept] / len(positive), limits[kept])


def equal_error_rate(roc: Roc) -> float:
    """Where false accepts and false rejects are equally frequent, on the straight lines between the corners."""
    # far = 1 - tar is far + tar = 1, and that sum rises strictly along the curve.
    return float(np.interp(1, roc.far + roc.tar, roc.far))


def thinned(roc: Roc, points: int = 200) -> Roc:
    """At most about so many corners, evenly spread over the logarithm of the false accept rate, and both ends.

    Each is a corner of the curve: at its false accept rate nothing is lost.
    """
    smallest = roc.far[roc.far > 0].min()
    wanted = np.geomspace(smallest, 1, points - 2)
    kept = np.searchsorted(roc.far, wanted * (1 + 1e-9), "right") - 1
    kept = np.unique(np.concatenate([[0], kept, [len(roc.far) - 1]]))
    return Roc(*(part[kept] for part in roc))
