"""The bootstrap against what is known in closed form, and its coverage by simulation."""

import numpy as np
import pytest

from advcloak_jax.evaluation.bootstrap import interval, paired_difference


def test_interval_of_many_persons_is_the_normal_one() -> None:
    values = np.random.default_rng(0).uniform(0, 100, size=400)
    low, high = interval(values, seed=1, samples=20000)
    half = 1.959964 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.04 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.04 * half)
    low90, high90 = interval(values, seed=1, samples=20000, level=0.9)
    assert (high90 - low90) / (high - low) == pytest.approx(1.644854 / 1.959964, abs=0.02)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(400):
        low, high = interval(rng.exponential(10, size=80), seed=trial, samples=400)
        hits += low <= 10 <= high
    # The percentile interval is known to cover a little less than its level on skewed data.
    assert 0.90 <= hits / 400 <= 0.98


def test_degenerate_samples() -> None:
    assert interval(np.array([42.0]), seed=0) == (42.0, 42.0)
    assert interval(np.full(9, 7.0), seed=0) == (7.0, 7.0)
    for bad in (np.array([]), np.zeros((2, 2)), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match="person"):
            interval(bad, seed=0)
    with pytest.raises(ValueError, match="level"):
        interval(np.ones(3), seed=0, level=95)


def test_the_seed_decides() -> None:
    values = np.random.default_rng(2).normal(size=30)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_paired_interval_is_narrower_when_methods_agree_on_who_is_easy() -> None:
    rng = np.random.default_rng(3)
    easy = rng.uniform(0, 90, size=50)
    a, b = easy + rng.normal(6, 2, size=50), easy + rng.normal(3, 2, size=50)
    difference, low, high = paired_difference(a, b, seed=0)
    assert difference == pytest.approx(a.mean() - b.mean())
    assert 0 < low < difference < high
    width_a, width_b = (np.diff(interval(x, seed=s))[0] for x, s in ((a, 0), (b, 1)))
    assert high - low < 0.2 * np.hypot(width_a, width_b)
    assert paired_difference(b, a, seed=0) == pytest.approx((-difference, -high, -low))
    with pytest.raises(ValueError, match="paired"):
        paired_difference(a, b[:-1], seed=0)
