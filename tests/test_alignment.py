"""From a photo to the crop and back: the matrix is scikit-image's, and a mask that is put on is in the next crop."""

import numpy as np
import pytest
from PIL import Image
from skimage.transform import SimilarityTransform

from advcloak_jax.photos import alignment

SIZE = 112


def smooth(*shape: int) -> np.ndarray:
    """Soft patterns [..., 3] in [-1, 1]."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(small, np.float32) / 127.5 - 1


def landmarks(scale: float, angle: float, left: float, top: float) -> np.ndarray:
    """The template's points, turned by degrees, scaled and moved into a photo, with a little noise."""
    turn = np.deg2rad(angle)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    noise = np.random.default_rng(1).normal(0, 0.3 * scale, (5, 2))
    return alignment.TEMPLATE @ matrix.T + (left, top) + noise


@pytest.mark.parametrize("size", [112, 48])
@pytest.mark.parametrize("angle", [0, 30, -170])
def test_the_matrix_is_the_least_squares_similarity(angle: float, size: int) -> None:
    points = landmarks(2.5, angle, 40, 70)
    reference = SimilarityTransform.from_estimate(points, alignment.TEMPLATE * size / 112)
    np.testing.assert_allclose(alignment.similarity(points, size), reference.params[:2], atol=1e-9)
    both = alignment.inverse(alignment.similarity(points, size))
    np.testing.assert_allclose(both, np.linalg.inv(reference.params)[:2], atol=1e-9)


def test_a_crop_of_the_right_size_is_itself() -> None:
    face = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    matrix = alignment.whole(SIZE, SIZE, SIZE)
    np.testing.assert_array_equal(alignment.crop(Image.fromarray(face), matrix, SIZE), face)
    mask = np.random.default_rng(1).normal(0, 0.02, (SIZE, SIZE, 3)).astype(np.float32)
    window, place = alignment.onto_photo(mask, matrix, SIZE, SIZE)
    assert place == (0, 0)
    np.testing.assert_allclose(window, mask, atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7, 6.3])
@pytest.mark.parametrize("angle", [0, 25])
def test_a_mask_on_the_photo_is_in_the_next_crop(scale: float, angle: float) -> None:
    height, width = round(260 * scale), round(300 * scale)
    matrix = alignment.similarity(landmarks(scale, angle, 90 * scale, 60 * scale), SIZE)
    mask = 30 * smooth(SIZE, SIZE)
    window, (left, top) = alignment.onto_photo(mask, matrix, width, height)
    photo = np.full((height, width, 3), 128, np.float32)
    photo[top : top + window.shape[0], left : left + window.shape[1]] += window
    found = alignment.crop(Image.fromarray(photo.round().astype(np.uint8)), matrix, SIZE).astype(np.float32) - 128
    inside = (slice(6, -6), slice(6, -6))
    assert np.abs(found - mask)[inside].max() < 3
    assert np.linalg.norm(found[inside]) == pytest.approx(np.linalg.norm(mask[inside]), rel=0.03)


def test_a_large_face_is_reduced_and_not_sampled() -> None:
    """A checkerboard of single pixels is grey from afar; every seventh pixel of it would be black or white."""
    board = np.indices((784, 784)).sum(0) % 2 * 255
    photo = Image.fromarray(np.repeat(board[..., None], 3, 2).astype(np.uint8))
    crop = alignment.crop(photo, alignment.whole(784, 784, SIZE), SIZE)
    assert np.abs(crop.astype(int) - 127).max() <= 4


@pytest.mark.parametrize(("left", "top"), [(-60, -60), (250, 200), (2000, 2000)])
def test_a_face_at_the_border_keeps_the_rest_of_its_mask(left: float, top: float) -> None:
    matrix = alignment.similarity(landmarks(1.0, 10, left, top), SIZE)
    mask = 30 * smooth(SIZE, SIZE)
    window, (x, y) = alignment.onto_photo(mask, matrix, 300, 260)
    assert window.shape[2] == 3
    assert min(x, y) >= 0
    if left == 2000:
        assert window.size == 0
        return
    assert x + window.shape[1] <= 300
    assert y + window.shape[0] <= 260
    large, (large_x, large_y) = alignment.onto_photo(mask, _moved(matrix, 400), 1200, 1200)
    part = large[y + 400 - large_y :, x + 400 - large_x :][: window.shape[0], : window.shape[1]]
    np.testing.assert_allclose(window, part, atol=1e-3)


def _moved(matrix: np.ndarray, by: int) -> np.ndarray:
    """The same crop of a photo that has `by` pixels more at its left and top."""
    found = matrix.copy()
    found[:, 2] -= matrix[:, :2] @ (by, by)
    return found
