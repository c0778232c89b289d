"""Batch order: a function of (seed, step) only, every item once an epoch."""

import numpy as np
import pytest

from advcloak_jax.data.order import image_batches, permutation


def _literal_stream(seed: int, n: int, items: int) -> np.ndarray:
    """Item k is permutation(epoch k // n)[k % n], one by one."""
    return np.array([permutation(seed, k // n, n)[k % n] for k in range(items)])


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (7, 7), (5, 13), (1, 4)])
def test_batches_are_the_literal_stream(n: int, batch: int) -> None:
    got = image_batches(3, n, batch, 0, 6)
    np.testing.assert_array_equal(got.ravel(), _literal_stream(3, n, 6 * batch))
    assert got.shape == (6, batch)
    assert got.dtype == np.int32


def test_history_does_not_matter() -> None:
    whole = image_batches(11, 23, 4, 0, 40)
    resumed = np.concatenate([image_batches(11, 23, 4, first, count) for first, count in [(0, 7), (7, 1), (8, 32)]])
    np.testing.assert_array_equal(whole, resumed)
    np.testing.assert_array_equal(image_batches(11, 23, 4, 31, 2), whole[31:33])


def test_every_epoch_has_every_item_once_and_its_own_order() -> None:
    epochs = image_batches(0, 12, 4, 0, 9).reshape(3, 12)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(12))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_seeds_differ_and_negative_or_large_ones_work() -> None:
    orders = {tuple(permutation(seed, 0, 50)) for seed in (0, 1, -1, 2**63, 12345678901234567890)}
    assert len(orders) == 5


def test_far_steps_need_no_history() -> None:
    step = 10**12
    np.testing.assert_array_equal(
        image_batches(5, 100, 64, step, 1)[0],
        [permutation(5, k // 100, 100)[k % 100] for k in range(64 * step, 64 * step + 64)],
    )


def test_unshuffled_goes_round_in_order() -> None:
    np.testing.assert_array_equal(image_batches(9, 5, 3, 1, 2, shuffle=False), [[3, 4, 0], [1, 2, 3]])


def test_permutations_are_uniform() -> None:
    """Each item stands at each place equally often: chi-square of 6x6 cells over 3000 epochs."""
    places = np.stack([permutation(0, epoch, 6) for epoch in range(3000)])
    counts = np.stack([np.bincount(places[:, place], minlength=6) for place in range(6)])
    assert ((counts - 500) ** 2 / 500).sum() < 60  # 25 degrees of freedom: 99.99 % lie below 59


def test_order_is_pinned() -> None:
    """A change here would change resumed runs; the numbers are the sort order of Philox's raw words."""
    words = np.random.Philox(key=np.array([7, 2], np.uint64)).random_raw(8)
    np.testing.assert_array_equal(permutation(7, 2, 8), sorted(range(8), key=lambda i: int(words[i])))
    assert permutation(7, 2, 8).tolist() == [6, 7, 4, 0, 1, 5, 3, 2]


def test_a_caller_cannot_spoil_the_cache() -> None:
    first = image_batches(1, 6, 6, 0, 1)
    first[:] = -1
    assert image_batches(1, 6, 6, 0, 1).min() == 0


@pytest.mark.parametrize(("n", "batch", "first", "steps"), [(0, 1, 0, 1), (1, 0, 0, 1), (1, 1, -1, 1), (1, 1, 0, 0)])
def test_senseless_arguments(n: int, batch: int, first: int, steps: int) -> None:
    with pytest.raises(ValueError, match="no batches"):
        image_batches(0, n, batch, first, steps)
