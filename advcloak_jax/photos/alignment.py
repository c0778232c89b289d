"""From a photo to the square crop that recognisers read, and a mask from the crop back onto the photo.

Points and matrices are in continuous coordinates (x, y): the centre of the first pixel is (0.5, 0.5).
"""

import math

import numpy as np
from PIL import Image

TEMPLATE = np.array(
    [[38.7946, 52.1963], [74.0318, 52.0014], [56.5252, 72.2366], [42.0493, 92.8655], [71.2299, 92.7041]]
)
"""Eyes, nose and corners of the mouth in a crop of 112x112, as ArcFace's training sets have them."""
TEMPLATE_SIZE = 112
MARGIN = 2
"""Pixels of the photo around a crop that resampling may touch."""


def similarity(points: np.ndarray, image_size: int) -> np.ndarray:
    """The matrix [2, 3] from a photo to its crop of `image_size` pixels: turned, scaled and moved, not skewed.

    points: five landmarks [5, 2] in the photo. Least squares of their distances to the template, in complex numbers:
    w = a z + b with a = sum conj(z - mean z)(w - mean w) / sum |z - mean z|^2 (Umeyama 1991, for the plane).
    """
    z = points[:, 0] + 1j * points[:, 1]
    w = (TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]) * image_size / TEMPLATE_SIZE
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred).real
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def whole(width: int, height: int, image_size: int) -> np.ndarray:
    """The matrix [2, 3] of a photo that is such a crop already, of any size."""
    return np.array([[image_size / width, 0, 0], [0, image_size / height, 0]])


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The matrix [2, 3] of the way back."""
    turned = np.linalg.inv(matrix[:, :2])
    return np.concatenate([turned, -turned @ matrix[:, 2:]], axis=1)


def magnification(matrix: np.ndarray) -> float:
    """Pixels of the crop for a pixel of the photo, along a side."""
    return math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))


def crop(photo: Image.Image, matrix: np.ndarray, image_size: int) -> np.ndarray:
    """The face [image_size, image_size, 3] uint8, bilinear; what lies outside of the photo is black.

    A larger face is first reduced by a whole factor, as pixels that are passed over would alias.
    """
    back = inverse(matrix)
    if (factor := int(1 / magnification(matrix))) > 1:
        photo = photo.reduce(factor)
        back = back / factor
    size = (image_size, image_size)
    return np.asarray(photo.transform(size, Image.Transform.AFFINE, back.ravel().tolist(), Image.Resampling.BILINEAR))


def onto_photo(mask: np.ndarray, matrix: np.ndarray, width: int, height: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A crop's mask [s, s, 3] where it lies in the photo: the mask [h, w, 3] of a window, and the window's (left, top).

    Its amplitude is kept, so that the face's next crop holds it again. In a photo whose face is smaller than the crop
    it is reduced first, as `crop` does it with the photo.
    """
    size = mask.shape[0]
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ inverse(matrix).T
    left, top = (max(0, math.floor(x) - MARGIN) for x in corners.min(0))
    right, bottom = (min(side, math.ceil(x) + MARGIN) for side, x in zip((width, height), corners.max(0), strict=True))
    window = (max(0, right - left), max(0, bottom - top))
    if 0 in window:
        return np.zeros((window[1], window[0], 3), np.float32), (left, top)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (left, top)
    layers = [Image.fromarray(np.ascontiguousarray(mask[..., channel], np.float32)) for channel in range(3)]
    if (scale := magnification(matrix)) > 1:
        smaller = max(1, round(size / scale))
        layers = [layer.resize((smaller, smaller), Image.Resampling.BICUBIC) for layer in layers]
        moved = moved * (smaller / size)
    coefficients = moved.ravel().tolist()
    turned = [
        layer.transform(window, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC) for layer in layers
    ]
    return np.stack([np.asarray(layer) for layer in turned], axis=-1), (left, top)
