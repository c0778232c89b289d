"""The procedural faces: same numbers, same bytes; faces differ by person; colour gives nobody away."""

import zlib

import numpy as np
import pytest

from advcloak_jax.data.face_canvas import Grid
from advcloak_jax.data.synthetic import BLOCK, render, synthetic_faces

PEOPLE, PHOTOS = 240, 6


@pytest.fixture(scope="module")
def small() -> np.ndarray:
    """Many people at 32 pixels, [PEOPLE, PHOTOS, 32, 32, 3] uint8."""
    return render(range(PEOPLE), PHOTOS, seed=3, image_size=32).reshape(PEOPLE, PHOTOS, 32, 32, 3)


def same_person_auc(features: np.ndarray) -> float:
    """Chance that a pair of one person [P, N, d] is nearer (cosine, mean removed) than a pair of two persons."""
    persons, photos, _ = features.shape
    flat = features.reshape(persons * photos, -1) - features.mean((0, 1))
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    first, second = np.triu_indices(len(flat), 1)
    cosine = (flat @ flat.T)[first, second]
    same = first // photos == second // photos
    ranks = np.empty(len(cosine))
    ranks[np.argsort(cosine)] = np.arange(len(cosine))
    count = same.sum()
    return float((ranks[same].sum() - count * (count - 1) / 2) / (count * (~same).sum()))


def test_an_image_depends_on_nothing_but_its_own_numbers() -> None:
    together = render(range(5, 10), 4, seed=7, image_size=48)
    assert 5 * 4 % BLOCK != 0, "the last block should be a short one"
    alone = render([8], 2, seed=7, image_size=48)
    np.testing.assert_array_equal(together.reshape(5, 4, 48, 48, 3)[3, :2], alone)
    np.testing.assert_array_equal(render([9, 8, 8], 2, seed=7, image_size=48)[2:], np.concatenate([alone, alone]))


def test_the_bytes_are_the_same_on_every_machine() -> None:
    """A change of this number changes every data set that anyone has drawn: deliberate changes only."""
    assert zlib.crc32(render(range(6), 3, seed=0, image_size=48).tobytes()) == 1853913868


def test_identity_image_and_seed_each_change_the_picture() -> None:
    a, b = render([1], 2, seed=0, image_size=32)
    for other in (b, render([2], 1, seed=0, image_size=32)[0], render([1], 1, seed=1, image_size=32)[0]):
        assert np.abs(a.astype(int) - other).mean() > 3
    # Neither must a seed of more than one word run into an identity or image number.
    assert not np.array_equal(render([1], 1, seed=2**32, image_size=32)[0], a)


def test_faceset_names_shapes_and_progress() -> None:
    seen: list[int] = []
    faces = synthetic_faces(3, 5, seed=0, image_size=40, progress=seen.append)
    assert faces.images.shape == (15, 40, 40, 3)
    assert faces.images.dtype == np.uint8
    assert faces.names == ("synthetic/00000", "synthetic/00001", "synthetic/00002")
    np.testing.assert_array_equal(faces.identity, np.repeat([0, 1, 2], 5))
    assert faces.identity.dtype == np.int32
    assert seen == [8, 15]
    np.testing.assert_array_equal(faces.images[5:10], render([1], 5, seed=0, image_size=40))
    assert render(range(2), 1, seed=0).shape == (2, 112, 112, 3)
    assert render([], 3, seed=0, image_size=32).shape == (0, 32, 32, 3)


@pytest.mark.parametrize(
    ("identities", "count", "seed", "size"), [([-1], 1, 0, 32), ([0], -1, 0, 32), ([0], 1, -1, 32), ([0], 1, 0, 8)]
)
def test_nonsense_is_refused(identities: list[int], count: int, seed: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"negative|at least 16"):
        render(identities, count, seed=seed, image_size=size)


def test_pictures_use_the_range(small: np.ndarray) -> None:
    contrast = small.std((2, 3, 4))
    assert contrast.min() > 6
    assert 90 < small.mean() < 160
    assert (small == 0).mean() < 0.06
    assert (small == 255).mean() < 0.06


def test_features_are_where_aligned_crops_have_them() -> None:
    """On the mean face the eyes (38, 52), (74, 52) are darker and the mouth (56, 92) is redder than what is around."""
    mean = render(range(80), 2, seed=5).mean(0)
    grey, red = mean.mean(2), mean[..., 0] - mean[..., 1]

    def around(plane: np.ndarray, x: int, y: int) -> float:
        return float(plane[y - 2 : y + 3, x - 3 : x + 4].mean())

    for eye in (38, 74):
        assert around(grey, eye, 52) < min(around(grey, 56, 52), around(grey, eye, 62)) - 6
    assert around(red, 56, 93) > max(around(red, x, y) for x, y in ((34, 93), (78, 93), (56, 104), (56, 82))) + 4


def test_mean_colour_identifies_nobody(small: np.ndarray) -> None:
    unit = small.astype(np.float32) / 255
    assert same_person_auc(unit.mean((2, 3))) < 0.75
    assert same_person_auc(unit[:, :, 8:24, 8:24].mean((2, 3))) < 0.75


def test_pixels_are_poor_and_learned_directions_are_good_on_strangers(small: np.ndarray) -> None:
    pooled = small.astype(np.float32).reshape(PEOPLE, PHOTOS, 16, 2, 16, 2, 3).mean((3, 5, 6))
    grey = pooled.reshape(PEOPLE, PHOTOS, -1)
    grey -= grey.mean(2, keepdims=True)
    grey /= grey.std(2, keepdims=True)
    train, strangers = grey[:180], grey[180:]
    raw = same_person_auc(strangers)
    assert 0.55 < raw < 0.87

    # Fisher's discriminant on 60 principal components, fitted on other people.
    centre = train.mean((0, 1))
    flat = (train - centre).reshape(-1, train.shape[2])
    basis = np.linalg.eigh(flat.T @ flat)[1][:, -60:]
    z = (train - centre) @ basis
    within = (z - z.mean(1, keepdims=True)).reshape(-1, 60)
    values, vectors = np.linalg.eigh(within.T @ within / len(within))
    whiten = vectors / np.sqrt(values)
    between = np.linalg.svd(z.mean(1) @ whiten, full_matrices=False)[2][:40].T
    learned = same_person_auc((strangers - centre) @ basis @ whiten @ between)
    assert learned > 0.88
    assert learned > raw + 0.05


def test_half_size_is_the_same_picture() -> None:
    large = render(range(12), 2, seed=1).astype(np.float32)
    half = render(range(12), 2, seed=1, image_size=56).astype(np.float32)
    pooled = large.reshape(24, 56, 2, 56, 2, 3).mean((2, 4))
    error = np.abs(pooled - half)
    for k in range(24):  # noise apart, nothing but the finest edges may differ
        assert np.corrcoef(pooled[k].ravel(), half[k].ravel())[0, 1] > 0.93
    assert error.mean() < 5
    assert np.abs(pooled.mean((1, 2)) - half.mean((1, 2))).max() < 2


def test_features_fit_their_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing in windows is a saving, not a crop: with windows as large as the picture the picture is the same."""
    windowed = render(range(40), 4, seed=2, image_size=56)
    monkeypatch.setattr(Grid, "window", lambda self, *_: (..., slice(None), slice(None)))
    whole = render(range(40), 4, seed=2, image_size=56)
    change = np.abs(windowed.astype(int) - whole).max((1, 2, 3))
    assert (change > 2).mean() <= 0.02, np.flatnonzero(change > 2)
