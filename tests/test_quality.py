"""SSIM and PSNR against scikit-image."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from advcloak_jax.evaluation.quality import psnr, ssim


def faces(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """35 pairs of 40 x 32 images, more than one batch of the map, H and W different."""
    rng = np.random.default_rng(0)
    shape = (35, 40, 32, 3)
    if kind == "noise":
        return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 256, shape, np.uint8)
    y, x = np.mgrid[:40, :32]
    smooth = 128 + 100 * np.sin(x / 9 + y / 7)[None, :, :, None] * rng.uniform(0.2, 1, (35, 1, 1, 3))
    if kind == "bright":  # almost flat near white: variances are small differences of large squares
        smooth = 250 + 0.02 * (smooth - 128)
    other = np.clip(smooth + rng.normal(0, 6, shape), 0, 255)
    if kind == "float":
        return smooth, other
    return smooth.astype(np.uint8), other.astype(np.uint8)


@pytest.mark.parametrize("kind", ["noise", "smooth", "bright", "float"])
def test_ssim_and_psnr_equal_scikit_image(kind: str) -> None:
    first, second = faces(kind)
    expected_ssim = [
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=-1
        )
        for a, b in zip(first, second, strict=True)
    ]
    expected_psnr = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(ssim(first, second), expected_ssim, atol=5e-6, rtol=0)
    np.testing.assert_allclose(psnr(first, second), expected_psnr, rtol=1e-4)


def test_identical_images() -> None:
    image, _ = faces("smooth")
    np.testing.assert_allclose(ssim(image[:2], image[:2]), 1, atol=1e-6)
    assert np.all(np.isposinf(psnr(image[:2], image[:2])))


def test_wrong_shapes_are_refused() -> None:
    image, _ = faces("smooth")
    with pytest.raises(ValueError, match="one shape"):
        ssim(image, image[:1])
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(image[:, :10], image[:, :10])
    with pytest.raises(ValueError, match="one shape"):
        psnr(image[0], image[0])
