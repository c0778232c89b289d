"""Verification against scikit-learn and against enumeration."""

import itertools
import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import verification


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
