"""How much of a picture a mask spoils, on grey levels 0..255: SSIM and PSNR.

SSIM: Wang, Bovik, Sheikh, Simoncelli 2004, doi:10.1109/TIP.2003.819861.
"""

import jax
import jax.numpy as jnp
import numpy as np

_SIGMA = 1.5
_RADIUS = 5  # scikit-image truncates the Gaussian at 3.5 sigma
_PEAK = 255.0
_BATCH = 32  # images in flight: bounds memory whatever the number of images


@jax.jit
def ssim(first: jax.Array, second: jax.Array) -> jax.Array:
    """Structural similarity of each pair of images, mean over channels and pixels: [B] float32, 1 for identical images.

    first, second: [B, H, W, C] uint8 or float, 0..255, H and W at least 11. Gaussian windows of sigma 1.5, population
    covariance: equal to scikit-image's structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255).
    Raises ValueError when the shapes differ or an image is smaller than a window.
    """
    _check(first, second)
    if min(first.shape[1:3]) < 2 * _RADIUS + 1:
        raise ValueError(f"SSIM needs images of at least 11 x 11 pixels, not {first.shape[1:3]}")
    return jax.lax.map(lambda pair: _ssim_of_one(*pair), (first, second), batch_size=_BATCH)


@jax.jit
def psnr(first: jax.Array, second: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio of each pair of images in decibels: [B] float32, infinite for identical images.

    first, second: [B, H, W, C] uint8 or float, 0..255. Raises ValueError when the shapes differ.
    """
    _check(first, second)

    def of_one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, y = (image.astype(jnp.float32) for image in pair)
        return 10 * jnp.log10(_PEAK**2 / jnp.mean((x - y) ** 2))

    return jax.lax.map(of_one, (first, second), batch_size=_BATCH)


def _check(first: jax.Array, second: jax.Array) -> None:
    if first.ndim != 4 or first.shape != second.shape:
        raise ValueError(f"two batches [B, H, W, C] of one shape are needed, not {first.shape} and {second.shape}")


def _ssim_of_one(first: jax.Array, second: jax.Array) -> jax.Array:
    """SSIM of two images [H, W, C], over the pixels whose window lies inside the image."""
    x, y = first.astype(jnp.float32), second.astype(jnp.float32)
    # Variances do not depend on an offset; without it their float32 rounding would be that of 255 squared.
    x_offset, y_offset = x.mean((0, 1)), y.mean((0, 1))
    x, y = x - x_offset, y - y_offset
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + x_offset, mean_y + y_offset
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean()


def _blur(image: jax.Array) -> jax.Array:
    """Separable Gaussian convolution of [H, W, C] without padding: [H - 10, W - 10, C].

    Written as a product with a banded matrix on each side: depthwise convolutions are slow on several backends.
    """
    rows, columns = (_band(size) for size in image.shape[:2])
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision=jax.lax.Precision.HIGHEST)


def _band(size: int) -> np.ndarray:
    """[size - 10, size] float32: row i holds the normalised Gaussian at columns i..i + 10."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    band = np.zeros((size - 2 * _RADIUS, size), np.float32)
    for i, weight in enumerate(weights / weights.sum()):
        band[np.arange(len(band)), np.arange(len(band)) + i] = weight
    return band
