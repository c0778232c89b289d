"""Pixel scale, Eq. 2 and 3, mask norms, and the bytes that are saved, against literal arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advcloak_jax import images

RNG = np.random.default_rng(0)
EVERY_GREY = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
MASKS = RNG.normal(0, 0.1, (2, 4, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_results_are_of_the_same_kind_and_type_as_the_arguments(array):
    pixels, masks = array(EVERY_GREY), array(MASKS)
    kind = type(pixels)
    for result in (images.to_unit(pixels), images.aggregate(masks), images.rescale(masks, 1200)):
        assert isinstance(result, kind)
        assert result.dtype == np.float32
    assert isinstance(images.protect(pixels, masks[0, 0]), kind)
    assert images.protect(pixels, masks[0, 0]).dtype == np.uint8


def test_unit_scale_is_grey_over_255():
    np.testing.assert_array_equal(
        images.to_unit(EVERY_GREY)[0, :, :, 0].ravel(), np.arange(256, dtype=np.float32) / 255
    )


def test_aggregate_is_the_mean_over_a_persons_images():
    expected = np.stack([sum(MASKS[p, i].astype(np.float64) for i in range(4)) / 4 for p in range(2)])
    np.testing.assert_allclose(images.aggregate(MASKS), expected, atol=1e-7)


def test_apply_mask_adds_one_mask_to_all_images_of_a_person_and_clips():
    faces = RNG.random((2, 4, 16, 16, 3), dtype=np.float32)
    mask = 8 * images.aggregate(MASKS)
    protected = images.apply_mask(faces, mask[:, None])
    for person in range(2):
        for image in range(4):
            np.testing.assert_array_equal(
                protected[person, image], np.minimum(np.maximum(faces[person, image] + mask[person], 0), 1)
            )
    assert protected.min() == 0
    assert protected.max() == 1


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_rescaled_masks_have_the_norm_and_keep_their_direction(array):
    masks = array(MASKS)
    scaled = np.asarray(images.rescale(masks, 1200), np.float64)
    norms = np.sqrt((scaled**2).reshape(2, 4, -1).sum(-1))
    np.testing.assert_allclose(norms * 255, 1200, rtol=1e-6)
    own_norms = np.sqrt((MASKS.astype(np.float64) ** 2).sum((2, 3, 4)))
    np.testing.assert_allclose(images.l2_norm(masks), own_norms, rtol=1e-6)
    cosines = (scaled * MASKS).sum((2, 3, 4)) / norms / own_norms
    np.testing.assert_allclose(cosines, 1, rtol=1e-6)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_zero_mask_stays_zero(array):
    np.testing.assert_array_equal(images.rescale(array(np.zeros((16, 16, 3), np.float32)), 1200), 0)


def test_norm_at_another_size_has_the_same_strength_per_pixel():
    assert images.mask_norm_at(112) == 1200
    assert images.mask_norm_at(64, 900) == pytest.approx(900 * 64 / 112)
    per_pixel = [images.mask_norm_at(size) / np.sqrt(3 * size**2) for size in (32, 64, 112)]
    np.testing.assert_allclose(per_pixel, per_pixel[0])


@pytest.mark.parametrize("protect", [images.protect, jax.jit(images.protect)])
def test_zero_mask_changes_no_bit(protect):
    np.testing.assert_array_equal(protect(EVERY_GREY, np.zeros((16, 16, 3), np.float32)), EVERY_GREY)


@pytest.mark.parametrize("protect", [images.protect, jax.jit(images.protect)])
def test_protected_pixels_are_truncated_and_clipped(protect):
    mask_in_grey = np.array([0.9, -0.1, 5.5], np.float32)
    protected = np.asarray(protect(EVERY_GREY, mask_in_grey / 255))[0].reshape(256, 3).astype(int)
    grey = np.arange(256)
    np.testing.assert_array_equal(protected[:, 0], grey)  # 0.9 of a grey level is lost
    np.testing.assert_array_equal(protected[:, 1], np.maximum(grey - 1, 0))  # rounding would keep the pixel
    np.testing.assert_array_equal(protected[:, 2], np.minimum(grey + 5, 255))


def test_protect_is_the_same_compiled_or_not_for_any_leading_axes():
    faces = RNG.integers(0, 256, (2, 4, 16, 16, 3), dtype=np.uint8)
    mask = images.rescale(MASKS[:, :1], 300)
    expected = [[images.protect(faces[p, i], mask[p, 0]) for i in range(4)] for p in range(2)]
    np.testing.assert_array_equal(images.protect(faces, mask), expected)
    np.testing.assert_array_equal(jax.jit(images.protect)(faces, mask), expected)
