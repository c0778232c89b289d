"""Percentile bootstrap over persons.

Trials of one person share their images and their mask, so they are not independent: 10,000 trials on 500 persons carry
the information of about 500 numbers. Persons are resampled, never trials.
"""

import numpy as np


def interval(per_person: np.ndarray, *, seed: int, samples: int = 2000, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of `per_person` [P] at confidence `level`: (low, high), in the unit of the input.

    The same seed, P and number of samples draw the same persons, whatever the values. With P = 1 the interval has no
    width, which says that nothing is known about other persons, not that the mean is certain.
    Raises ValueError when there is no person, a value is not finite, or `level` is not between 0 and 1.
    """
    values = np.asarray(per_person, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"one value per person is needed, not an array of shape {values.shape}")
    if not np.all(np.isfinite(values)):
        raise ValueError("a person's value is not finite")
    if not 0 < level < 1 or samples < 1:
        raise ValueError("level must be between 0 and 1, samples at least 1")
    drawn = np.random.default_rng(seed).integers(len(values), size=(samples, len(values)))
    tail = 50.0 * (1 - level)
    low, high = np.percentile(values[drawn].mean(axis=1), [tail, 100 - tail])
    return float(low), float(high)


def paired_difference(
    a: np.ndarray, b: np.ndarray, *, seed: int, samples: int = 2000, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of a - b over the same persons with its interval: (difference, low, high).

    a, b: [P], in the same order of persons. Two methods succeed on the same easy persons, so their difference is known
    better than either value; an interval that leaves out 0 is evidence of a difference.
    Raises ValueError when the shapes differ, and as `interval` does.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values must be of the same persons: shapes {a.shape} and {b.shape}")
    low, high = interval(a - b, seed=seed, samples=samples, level=level)
    return float(np.mean(a - b)), low, high
