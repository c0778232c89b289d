"""The blocked count against the protocol written out trial by trial."""

import numpy as np
import pytest

from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import identification


def literal_ranks(probes: np.ndarray, mates: np.ndarray, distractors: np.ndarray) -> np.ndarray:
    """Every trial with its own gallery, sorted; among equals the mate comes first."""
    persons, images, _ = probes.shape
    result = np.full((persons, images, images), -1)
    for p in range(persons):
        for i in range(images):
            for j in range(images):
                if i != j:
                    gallery = np.concatenate([mates[p, j][None], distractors]).astype(np.float64)
                    similarity = gallery @ probes[p, i].astype(np.float64)
                    result[p, i, j] = list(np.argsort(-similarity, kind="stable")).index(0)
    return result


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 37, 1000])
def test_ranks_equal_the_literal_protocol(block: int) -> None:
    rng = np.random.default_rng(0)
    distractors = unit(rng, 37, 8)
    distractors[20:30] = distractors[3:13]  # copies count each
    probes, mates = unit(rng, 4, 3, 8), unit(rng, 4, 3, 8)
    probes[0] = mates[0]  # diagonal 1, neighbours as they come
    result = identification.ranks(probes, mates, distractors, block=block)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, literal_ranks(probes, mates, distractors))
    assert result.max() > 30  # not a trivial case


def test_ties_with_the_mate_do_not_push_it_back() -> None:
    rng = np.random.default_rng(1)

    # Entries of +-1/4 in 16 dimensions: unit norm and exact sums, so equal similarities are exactly equal.
    def signs(*shape: int) -> np.ndarray:
        return (rng.integers(0, 2, size=(*shape, 16)) * 0.5 - 0.25).astype(np.float32)

    probes, mates, distractors = signs(5, 4), signs(5, 4), signs(50)
    distractors[:5] = mates[:, 0]
    distractors[5:10] = mates[:, 1]
    result = identification.ranks(probes, mates, distractors, block=16)
    np.testing.assert_array_equal(result, literal_ranks(probes, mates, distractors))


def test_protection_is_the_share_of_trials_that_miss() -> None:
    rng = np.random.default_rng(2)
    probes, mates, distractors = unit(rng, 6, 4, 8), unit(rng, 6, 4, 8), unit(rng, 23, 8)
    literal = literal_ranks(probes, mates, distractors)
    result = identification.ranks(probes, mates, distractors, block=10)
    for k in (1, 5, 10):
        expected = [
            100 - 100 * np.mean([literal[p, i, j] < k for i in range(4) for j in range(4) if i != j]) for p in range(6)
        ]
        np.testing.assert_allclose(identification.protection(result, k), expected)
    assert np.all(identification.protection(result, 24) == 0)  # the gallery has 24 faces: the mate is among 24


def test_an_unprotected_face_that_is_its_own_mate_is_found_and_its_opposite_is_not() -> None:
    rng = np.random.default_rng(3)
    faces = np.repeat(unit(rng, 5, 1, 32), 3, axis=1)
    distractors = unit(rng, 100, 32)
    found = identification.protection(identification.ranks(faces, faces, distractors, block=64), 1)
    hidden = identification.protection(identification.ranks(-faces, faces, distractors, block=64), 10)
    assert np.all(found == 0)
    assert np.all(hidden == 100)


@pytest.mark.parametrize("block", [1000, 4096])
def test_thousands_of_distractors_before_the_mate_are_all_counted(block: int) -> None:
    rng = np.random.default_rng(5)
    faces = np.repeat(unit(rng, 2, 1, 8), 2, axis=1)
    distractors = np.concatenate([np.repeat(faces[0, :1], 5000, axis=0), np.repeat(-faces[0, :1], 300, axis=0)])
    result = identification.ranks(faces[:1], -faces[:1], distractors, block=block)
    np.testing.assert_array_equal(result, [[[-1, 5000], [5000, -1]]])


def test_what_cannot_be_evaluated_is_refused() -> None:
    rng = np.random.default_rng(4)
    faces, distractors = unit(rng, 2, 3, 8), unit(rng, 5, 8)
    with pytest.raises(UserError, match="distractor"):
        identification.ranks(faces, faces, distractors[:0])
    with pytest.raises(UserError, match="at least 2 test images"):
        identification.ranks(faces[:, :1], faces[:, :1], distractors)
    with pytest.raises(ValueError, match="shapes"):
        identification.ranks(faces, faces[:, :2], distractors)
    with pytest.raises(ValueError, match="probes must have unit norm"):
        identification.ranks(faces * np.nan, faces, distractors)
    with pytest.raises(ValueError, match="k must"):
        identification.protection(np.zeros((1, 2, 2), np.int32), 0)


@pytest.mark.parametrize("images", [2, 5, 6])  # one, four and five mates of each probe
def test_counts_that_fill_a_byte_of_every_group_of_blocks(images: int) -> None:
    """All distractors are more similar than the mates, over more blocks than count together, and some are left."""
    rng = np.random.default_rng(3)
    away = np.eye(8, dtype=np.float32)[0]
    probes, mates = np.broadcast_to(away, (2, images, 8)), np.broadcast_to(-away, (2, images, 8))
    distractors = unit(rng, 16 * 2 * 33 + 5, 8)
    distractors[:, 0] = np.abs(distractors[:, 0])
    result = identification.ranks(probes, mates, distractors, block=32)
    off_diagonal = ~np.eye(images, dtype=bool)
    assert (result[:, off_diagonal] == len(distractors)).all()
    assert (result[:, ~off_diagonal] == -1).all()
