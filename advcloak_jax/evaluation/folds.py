"""Accuracy as LFW's protocol has it: on every fold, with the threshold that is best on the others.

Thresholds are exact: accuracy changes only at a score, so every score of the training folds is tried, and a limit above
them all. The field's usual code tries squared distances of 0 to 4 in steps of 0.01 instead, that is, cosines in steps
of 0.005. Its training accuracy is never higher than the exact one; its accuracy on the held-out fold may differ either
way, by the few pairs whose scores lie between two steps (on 6,000 pairs, usually less than 0.1 %).
"""

from typing import Any, NamedTuple

import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.roc import by_kind


class Folds(NamedTuple):
    """Results over k folds (`number`), weighing each fold alike.

    accuracy: mean share of held-out pairs told right.   std: the folds' standard deviation with k - 1 in the
    denominator, as LFW's report defines it (code that divides by k shows a value smaller by sqrt((k - 1) / k), 5 % at
    10 folds).   standard_error: std / sqrt(k).   balanced_accuracy: mean over the folds of the mean of the shares of
    same and of different pairs told right, with thresholds chosen for just that; None when a fold lacks a kind. In
    LFW's own folds, half same and half different, both accuracies are one.   accuracies, thresholds: [k].
    """

    number: int
    accuracy: float
    std: float
    standard_error: float
    balanced_accuracy: float | None
    accuracies: np.ndarray
    thresholds: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return self._asdict() | {"accuracies": self.accuracies.tolist(), "thresholds": self.thresholds.tolist()}


def best_threshold(scores: np.ndarray, same: np.ndarray, *, balanced: bool) -> tuple[float, float]:
    """Highest accuracy of one threshold and the lowest score that reaches it: (accuracy, threshold).

    A pair counts as the same person when its score is at least the threshold. `balanced`: the mean of the shares of
    same and of different pairs told right, so that unequal numbers of them make no difference; else the share of all
    pairs. scores: [m] float; same: [m] bool, of both kinds.
    """
    positive, negative = by_kind(scores, same)
    # Just above the highest score nobody is accepted; every other useful threshold is one of the scores.
    thresholds = np.append(np.unique(scores), np.nextafter(scores.max(), np.inf))
    accepted = len(positive) - np.searchsorted(np.sort(positive), thresholds, "left")
    rejected = np.searchsorted(np.sort(negative), thresholds, "left")
    if balanced:
        accuracy = (accepted / len(positive) + rejected / len(negative)) / 2
    else:
        accuracy = (accepted + rejected) / len(scores)
    best = int(np.argmax(accuracy))
    return float(accuracy[best]), float(thresholds[best])


def cross_validate(scores: np.ndarray, same: np.ndarray, fold: np.ndarray) -> Folds:
    """Accuracy of every fold at the threshold that is best on the others.

    scores: [m] float; same: [m] bool; fold: [m], any labels. Raises UserError when there is one fold only, or when all
    pairs outside a fold are of one kind.
    """
    labels = np.unique(fold)
    if len(labels) < 2:
        raise UserError("Accuracy over folds needs at least 2 folds.")
    accuracies, thresholds, balanced = [], [], []
    for label in labels:
        held_out = fold == label
        if len(np.unique(same[~held_out])) < 2:
            raise UserError(f"All pairs outside fold {label} are of one kind; give every fold pairs of both kinds.")
        tested, truth = scores[held_out], same[held_out]
        threshold = best_threshold(scores[~held_out], same[~held_out], balanced=False)[1]
        accuracies.append(float(np.mean((tested >= threshold) == truth)))
        thresholds.append(threshold)
        fair = (tested >= best_threshold(scores[~held_out], same[~held_out], balanced=True)[1]) == truth
        if 0 < truth.sum() < len(truth):
            balanced.append(float(fair[truth].mean() + fair[~truth].mean()) / 2)
    std = float(np.std(accuracies, ddof=1))
    return Folds(
        number=len(labels),
        accuracy=float(np.mean(accuracies)),
        std=std,
        standard_error=std / len(labels) ** 0.5,
        balanced_accuracy=float(np.mean(balanced)) if len(balanced) == len(labels) else None,
        accuracies=np.asarray(accuracies),
        thresholds=np.asarray(thresholds),
    )
