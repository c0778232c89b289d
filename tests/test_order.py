"""Batch order: a function of (seed, step) only, every item once an epoch."""

import numpy as np
import pytest

from advcloak_jax.data.order import Balanced, image_batches, own_permutation, permutation


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


# Persons 7, 0 and 3 with 5, 1 and 3 images, mixed up.
LABELS = np.array([7, 3, 7, 0, 7, 3, 7, 3, 7], np.int32)


def test_balanced_is_the_literal_stream() -> None:
    """Round r goes through the persons in the order of permutation(r), each with image r of the person's own stream."""
    persons = [np.flatnonzero(number == LABELS) for number in np.unique(LABELS)]
    literal = []
    for turn in range(20):
        for person in permutation(3, turn, 3):
            own = persons[person]
            order = own_permutation(3, int(person), turn // len(own), len(own))
            literal.append(own[order[turn % len(own)]])
    found = Balanced(3, LABELS).batches(4, 0, 15)
    np.testing.assert_array_equal(found.ravel(), literal)
    assert found.shape == (15, 4)
    assert found.dtype == np.int32


@pytest.mark.parametrize("persons", [2, 7, 40])
def test_balanced_persons_come_equally_often(persons: int) -> None:
    """From the first step to any other, so over every epoch from the start; and each one's images among themselves."""
    labels = np.random.default_rng(persons).integers(persons, size=23 * persons) // 2 * 2
    items = Balanced(1, labels).batches(6, 0, 60 * persons).ravel()
    present = np.unique(labels)
    for end in (1, 5, len(labels), 2 * len(labels), len(items)):
        counts = np.bincount(labels[items[:end]], minlength=persons + 1)[present]
        assert np.ptp(counts) <= 1
    times = np.bincount(items, minlength=len(labels))
    assert all(np.ptp(times[labels == person]) <= 1 for person in present)


def test_balanced_needs_no_history() -> None:
    whole = Balanced(11, LABELS).batches(4, 0, 40)
    again = Balanced(11, LABELS)
    np.testing.assert_array_equal(again.batches(4, 31, 2), whole[31:33])
    np.testing.assert_array_equal(again.batches(4, 0, 7), whole[:7])
    assert (Balanced(12, LABELS).batches(4, 0, 40) != whole).any()
    far = 10**10
    assert set(LABELS[Balanced(5, LABELS).batches(3, far, 1)[0]]) == {0, 3, 7}


def test_balanced_images_have_an_order_of_their_own_each_time() -> None:
    labels = np.zeros(12, np.int32)
    turns = Balanced(0, labels).batches(12, 0, 3)
    assert len({tuple(turn) for turn in turns}) == 3
    assert (own_permutation(0, 0, 0, 12) != own_permutation(0, 1, 0, 12)).any()


def test_balanced_order_is_pinned() -> None:
    """A change here would change resumed runs."""
    words = np.random.Philox(key=np.array([7, 2], np.uint64), counter=np.array([0, 0, 0, 5], np.uint64)).random_raw(6)
    np.testing.assert_array_equal(own_permutation(7, 4, 2, 6), sorted(range(6), key=lambda i: int(words[i])))


def test_balanced_without_items() -> None:
    with pytest.raises(ValueError, match="no items"):
        Balanced(0, np.array([], np.int32))
