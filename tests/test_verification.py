"""Verification against scikit-learn and against enumeration."""

import itertools
import json
import statistics

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import folds, roc, verification


def scores(ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    same = rng.permutation(3000) < 1000
    cosines = np.clip(rng.normal(np.where(same, 0.35, 0.0), 0.15), -1, 1).astype(np.float32)
    return (np.round(cosines, 1) if ties else cosines), same


@pytest.mark.parametrize("ties", [False, True])
def test_rates_equal_scikit_learn(ties: bool) -> None:
    cosines, same = scores(ties)
    assert verification.auc(cosines, same) == pytest.approx(roc_auc_score(same, cosines), abs=1e-9)
    fpr, tpr, thresholds = roc_curve(same, cosines, drop_intermediate=False)
    for rate in (0.5, 1e-1, 1e-2, 1e-3, 1e-4, 0.0):
        assert verification.tar_at_far(cosines, same, rate) == pytest.approx(tpr[fpr <= rate].max(), abs=1e-12)
    assert verification.tar_at_far(cosines, same, 1.0) == 1
    accuracy, threshold = verification.best_accuracy(cosines, same)
    assert accuracy == pytest.approx(((tpr + 1 - fpr) / 2).max(), abs=1e-12)
    assert accuracy == pytest.approx(balanced_accuracy_score(same, cosines >= np.float32(threshold)))
    assert threshold in thresholds


def test_accuracy_does_not_depend_on_how_many_pairs_of_a_kind_there_are() -> None:
    cosines, same = scores(False)
    more = np.concatenate([cosines, *[cosines[~same]] * 9])
    same_of_more = np.concatenate([same, np.zeros(9 * int((~same).sum()), bool)])
    assert verification.best_accuracy(cosines, same) == pytest.approx(verification.best_accuracy(more, same_of_more))


@pytest.mark.parametrize("ties", [False, True])
def test_curve_equals_scikit_learn(ties: bool) -> None:
    cosines, same = scores(ties)
    found = roc.curve(cosines, same)
    far, tar, limits = roc_curve(same, cosines, drop_intermediate=False)
    assert set(zip(*found, strict=True)) <= set(zip(far, tar, limits, strict=True))
    # What is left out lies on the lines between the rest; far + tar tells the place along the curve.
    np.testing.assert_allclose(np.interp(far + tar, found.far + found.tar, found.far), far, atol=1e-12)
    assert len(found.far) < len(far) or ties
    assert np.trapezoid(found.tar, found.far) == pytest.approx(verification.auc(cosines, same))


@pytest.mark.parametrize("ties", [False, True])
def test_equal_error_rate_is_where_the_error_rates_cross(ties: bool) -> None:
    cosines, same = scores(ties)
    far, tar, _ = roc_curve(same, cosines, drop_intermediate=False)
    rate = roc.equal_error_rate(roc.curve(cosines, same))
    # Below every threshold's worse rate and above every one's better: they cross there.
    assert 0.05 < np.minimum(far, 1 - tar).max() <= rate <= np.maximum(far, 1 - tar).min() < 0.3
    apart = np.array([1.0, 2, 3, 4]), np.array([False, False, True, True])
    assert roc.equal_error_rate(roc.curve(*apart)) == 0
    assert roc.equal_error_rate(roc.curve(apart[0], ~apart[1])) == 1
    assert roc.equal_error_rate(roc.curve(np.ones(4), apart[1])) == pytest.approx(0.5)


def test_a_thinned_curve_has_true_corners_at_all_scales() -> None:
    cosines, same = scores(False)
    full = roc.curve(cosines, same)
    few = roc.thinned(full, 30)
    assert len(full.far) > 400
    assert 10 < len(few.far) <= 30
    assert set(zip(few.far, few.tar, few.threshold, strict=True)) <= set(zip(*full, strict=True))
    assert (few.far[0], few.tar[0], few.far[-1], few.tar[-1]) == (0, 0, 1, 1)
    for rate in (1e-3, 1e-2, 1e-1):
        assert np.any((few.far > rate / 3) & (few.far <= rate))


def slow_folds(cosines: np.ndarray, same: np.ndarray, fold: np.ndarray) -> tuple[list[float], list[float]]:
    """LFW's protocol as literally as it can be written: plain and balanced accuracy of every fold."""
    plain, balanced = [], []
    for held_out in sorted(set(fold.tolist())):
        training = [(c, s) for c, s, f in zip(cosines, same, fold, strict=True) if f != held_out]
        testing = [(c, s) for c, s, f in zip(cosines, same, fold, strict=True) if f == held_out]

        def right(pairs: list, threshold: float) -> float:
            return sum((c >= threshold) == s for c, s in pairs) / len(pairs)

        def fair(pairs: list, threshold: float) -> float:
            kinds = [[pair for pair in pairs if pair[1] == kind] for kind in (True, False)]
            return sum(right(kind, threshold) for kind in kinds) / 2

        limits = [*sorted({c for c, _ in training}), np.float32(9)]
        for measure, found in ((right, plain), (fair, balanced)):
            rates = [measure(training, limit) for limit in limits]
            found.append(measure(testing, limits[rates.index(max(rates))]))
    return plain, balanced


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shares", [(0.5,) * 4, (0.2, 0.9, 0.5, 0.6)])
def test_accuracy_over_folds_equals_a_literal_loop(ties: bool, shares: tuple[float, ...]) -> None:
    rng = np.random.default_rng(5)
    same = np.concatenate([np.arange(40) < 40 * share for share in shares])
    fold = np.repeat([7, 3, 5, 4], 40)
    cosines = rng.normal(np.where(same, 0.3, 0.0), 0.2).astype(np.float32)
    cosines = np.round(cosines, 1) if ties else cosines
    plain, balanced = slow_folds(cosines, same, fold)
    found = folds.cross_validate(cosines, same, fold)
    np.testing.assert_allclose(found.accuracies, plain, atol=1e-12)
    assert found.accuracy == pytest.approx(np.mean(plain))
    assert found.balanced_accuracy == pytest.approx(np.mean(balanced))
    assert found.std == pytest.approx(statistics.stdev(plain))
    assert found.standard_error == pytest.approx(statistics.stdev(plain) / 2)
    assert found.number == 4
    if shares == (0.5,) * 4:
        assert found.accuracy == pytest.approx(found.balanced_accuracy)


def test_the_usual_grid_of_distances_is_never_better_than_exact_thresholds() -> None:
    cosines, same = scores(False)
    grid = [np.mean((2 - 2 * cosines < distance) == same) for distance in np.arange(0, 4, 0.01)]
    exact = folds.best_threshold(cosines, same, balanced=False)[0]
    assert max(grid) <= exact <= max(grid) + 0.005


def test_the_threshold_does_not_see_the_fold_it_is_tried_on() -> None:
    rng = np.random.default_rng(6)
    same = rng.random(400) < 0.5
    noise, fold = rng.normal(size=400), np.arange(400) % 10
    before = folds.cross_validate(noise, same, fold)
    changed = np.where(fold == 4, -3 * noise, noise)
    after = folds.cross_validate(changed, same, fold)
    assert before.thresholds[4] == after.thresholds[4]
    assert before.accuracy < 0.6
    assert folds.best_threshold(noise, same, balanced=False)[0] >= before.accuracy


def test_folds_that_allow_no_threshold_are_refused() -> None:
    same = np.array([True, False, True, True])
    with pytest.raises(UserError, match="at least 2 folds"):
        folds.cross_validate(np.arange(4.0), same, np.zeros(4))
    with pytest.raises(UserError, match="outside fold 0 are of one kind"):
        folds.cross_validate(np.arange(4.0), same, np.array([0, 0, 1, 1]))
    lopsided = folds.cross_validate(np.arange(6.0), np.array([0, 1, 0, 1, 1, 1], bool), np.repeat([0, 1, 2], 2))
    assert lopsided.balanced_accuracy is None


def test_a_face_and_its_mirror_image_weigh_the_same() -> None:
    rng = np.random.default_rng(7)
    plain, mirrored = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in rng.normal(size=(2, 5, 8)))
    both = verification.mirrored_sum(plain, mirrored)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1)
    np.testing.assert_allclose((both * plain).sum(1), (both * mirrored).sum(1))
    np.testing.assert_allclose(both, verification.mirrored_sum(mirrored, plain))


def all_pairs(identity: np.ndarray) -> tuple[set, set]:
    every = {frozenset(p) for p in itertools.combinations(range(len(identity)), 2)}
    same = {p for p in every if len({int(identity[i]) for i in p}) == 1}
    return same, every - same


def test_pairs_are_what_they_say_and_all_of_them_can_be_had() -> None:
    identity = np.random.default_rng(1).permutation(np.repeat([3, 5, 6, 9, 11], [1, 4, 2, 1, 5]))
    same, different = all_pairs(identity)
    drawn = verification.pairs(identity, 10**6, 10**6, seed=0)
    found = [frozenset((int(a), int(b))) for a, b in zip(drawn.first, drawn.second, strict=True)]
    assert set(found[: len(same)]) == same
    assert set(found[len(same) :]) == different
    assert len(found) == len(same) + len(different)
    assert drawn.same.tolist() == [True] * len(same) + [False] * len(different)


def test_drawn_pairs_do_not_repeat_and_are_uniform() -> None:
    identity = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
    same, different = all_pairs(identity)
    counts: dict[frozenset, int] = {}
    for seed in range(2000):
        drawn = verification.pairs(identity, 5, 8, seed=seed)
        found = [frozenset((int(a), int(b))) for a, b in zip(drawn.first, drawn.second, strict=True)]
        assert len(set(found)) == 13
        for pair in found:
            counts[pair] = counts.get(pair, 0) + 1
    for kind, wanted in ((same, 5), (different, 8)):
        expected = 2000 * wanted / len(kind)
        seen = np.array([counts.get(pair, 0) for pair in kind])
        assert np.all(np.abs(seen - expected) < 5 * np.sqrt(expected))


def test_pairs_of_many_images_are_drawn_fast() -> None:
    identity = np.repeat(np.arange(20000), 25)  # 125 thousand million pairs
    drawn = verification.pairs(identity, 20000, 20000, seed=0)
    np.testing.assert_array_equal(identity[drawn.first] == identity[drawn.second], drawn.same)
    assert np.all(drawn.first != drawn.second)
    assert len(drawn.first) == 40000


def test_rank1_equals_a_loop() -> None:
    rng = np.random.default_rng(2)
    identity = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 5, size=30)))
    embeddings = rng.normal(size=(30, 8))[identity] + rng.normal(size=(len(identity), 8))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    gallery = {}
    for i, person in enumerate(identity):
        gallery.setdefault(int(person), i)
    hits = [
        max(gallery, key=lambda g: embeddings[gallery[g]] @ embeddings[i]) == identity[i]
        for i in range(len(identity))
        if i not in gallery.values()
    ]
    assert 0.2 < np.mean(hits) < 0.95
    assert verification.rank1(embeddings, identity, block=7) == pytest.approx(np.mean(hits))


def test_summary_is_json_and_keeps_quiet_about_rates_it_cannot_measure() -> None:
    rng = np.random.default_rng(3)
    identity = np.repeat(np.arange(40), 5)
    embeddings = (rng.normal(size=(40, 16))[identity] + 0.5 * rng.normal(size=(200, 16))).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    result = json.loads(json.dumps(verification.summary(embeddings, identity, same=5000, different=2000)))
    assert (result["same_pairs"], result["different_pairs"]) == (400, 2000)
    assert result["tar"]["0.01"] >= result["tar"]["0.001"] > 0
    assert result["tar"]["0.0001"] is None
    assert result["folds"] is None
    assert 0 < result["eer"] < 0.5
    assert sum(result["histogram"]["same"]) == pytest.approx(1)
    assert sum(result["histogram"]["different"]) == pytest.approx(1)
    assert len(result["histogram"]["edges"]) == len(result["histogram"]["same"]) + 1


def test_what_cannot_be_verified_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2 images"):
        verification.pairs(np.arange(5), 10, 10, seed=0)
    with pytest.raises(UserError, match="at least 2 persons"):
        verification.pairs(np.zeros(5, int), 10, 10, seed=0)
    with pytest.raises(UserError, match="at least 2 images"):
        verification.rank1(np.eye(5), np.arange(5))
    with pytest.raises(ValueError, match="both kinds"):
        verification.auc(np.ones(3), np.ones(3, bool))
