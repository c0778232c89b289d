"""The masks of a person's photos, and photos that wear them."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from advcloak_jax import images
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.config import ProtectConfig
from advcloak_jax.errors import UserError
from advcloak_jax.jobs.protect_faces import Face, Found
from advcloak_jax.photos import alignment
from advcloak_jax.photos.photo_file import Photo

MASKS_AT_A_TIME = 8


def make_masks(cloak: Cloak, found: Sequence[Found], config: ProtectConfig, size: int) -> np.ndarray:
    """The masks [photos, S, S, 3] float32, on the scale [0, 1], at the norm asked for: one for all, or each photo's.

    One that was made before is as it was, unless a norm is asked for. Photos that are doubtful make no mask for others.
    Raises UserError for a mask that is not finite.
    """
    crops = np.stack([one.face.crop for one in found])
    key = jax.random.key(config.seed)
    if cloak.kind == "image":
        made = _image_masks(cloak, crops, key)
    else:
        # The less a photo had to be magnified, the larger the face in it.
        magnified = [alignment.magnification(one.face.matrix) for one in found]
        largest = [i for i in np.argsort(magnified, kind="stable") if not found[i].doubtful]
        chosen = crops[np.sort(largest[: config.mask_photos])]
        mask = np.asarray(cloak.make_masks(images.to_unit(jax.numpy.asarray(chosen[None])), key), np.float32)
        made = mask.reshape(1, size, size, 3)
    if not np.isfinite(made).all():
        raise UserError(f"{cloak.name} made a mask that is not finite; name another cloak.")
    if not config.mask:
        made = made * fading(size, config.fade)[..., None]
    if config.norm or not config.mask:
        norm = images.mask_norm_at(size, config.norm) if config.norm else images.mask_norm_at(size)
        made = np.asarray(images.rescale(made, norm))
    return np.broadcast_to(made, crops.shape)


def fading(size: int, margin: int) -> np.ndarray:
    """Weights [S, S] in (0, 1] that rise over the outer `margin` pixels, so that the mask's edge is not seen."""
    edge = np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5)
    along = np.sin(np.pi / 2 * np.minimum(edge / margin, 1)) ** 2 if margin else np.ones(size)
    return np.outer(along, along).astype(np.float32)


def _image_masks(cloak: Cloak, crops: np.ndarray, key: jax.Array) -> np.ndarray:
    """Each photo's own mask, a few at a time, so that memory does not grow with their number."""
    made = []
    for number, start in enumerate(range(0, len(crops), MASKS_AT_A_TIME)):
        block = crops[start : start + MASKS_AT_A_TIME]
        full = np.concatenate([block, np.repeat(block[-1:], MASKS_AT_A_TIME - len(block), axis=0)])
        masks = cloak.make_masks(images.to_unit(jax.numpy.asarray(full[None])), jax.random.fold_in(key, number))
        made.append(np.asarray(masks, np.float32)[0, : len(block)])
    return np.concatenate(made)


def wear(photo: Photo, face: Face, mask: np.ndarray) -> Photo:
    """The photo with the mask [S, S, 3] where the face is."""
    pixels = np.array(photo.picture)
    window, (left, top) = alignment.onto_photo(mask, face.matrix, *photo.picture.size)
    part = pixels[top : top + window.shape[0], left : left + window.shape[1]]
    part[:] = images.protect(part, window)
    return dataclasses.replace(photo, picture=Image.fromarray(pixels))
