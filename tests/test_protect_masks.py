"""What a person's mask is made from, and how it is finished."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from person_photos import SIZE

from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.config import ProtectConfig
from advcloak_jax.jobs import protect_masks
from advcloak_jax.jobs.protect_faces import Face, Found
from advcloak_jax.photos import alignment

SIDES = (40, 90, 80, 70, 60, 50, 45, 44, 43, 42, 41)


def made(cloak_kind: Any, *, doubtful: int | None = None, **settings: Any) -> tuple[np.ndarray, list[int]]:
    """The masks of eleven photos by a cloak that gives faces back, and how many faces it was given each time.

    Photo i is SIDES[i] pixels wide; its face is black but for row i.
    """
    given = []

    def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
        given.append(faces.shape[1])
        return faces if cloak_kind == "image" else faces.mean(1)

    found = []
    for i, side in enumerate(SIDES):
        crop = np.zeros((SIZE, SIZE, 3), np.uint8)
        crop[i] = 255
        face = Face(crop, alignment.whole(side, side, SIZE), None)
        found.append(Found(Path(f"{i}.png"), face, 1, None, doubtful=i == doubtful))
    config = ProtectConfig(photos="in", out="out", fade=0, **settings)
    return protect_masks.make_masks(Cloak("given", cloak_kind, make_masks), found, config, SIZE), given


def rows_of(mask: np.ndarray) -> list[int]:
    """Rows [H] of a mask [H, W, C] that are not zero: the photos that it was made from."""
    return np.flatnonzero(mask.any((1, 2))).tolist()


def test_the_mask_is_made_from_the_largest_faces() -> None:
    masks, given = made("person", mask_photos=2)
    assert given == [2]
    assert masks.shape == (len(SIDES), SIZE, SIZE, 3)
    assert [rows_of(mask) for mask in masks] == [[1, 2]] * len(SIDES)
    norms = np.linalg.norm(masks.reshape(len(SIDES), -1), axis=1)
    np.testing.assert_allclose(norms * 255, 1200 * SIZE / 112, rtol=1e-4)


def test_a_doubtful_photo_has_no_part_in_the_mask() -> None:
    masks, _ = made("person", mask_photos=2, doubtful=1)
    assert [rows_of(mask) for mask in masks] == [[2, 3]] * len(SIDES)


def test_a_cloak_per_image_makes_each_photos_own_mask() -> None:
    masks, given = made("image")
    assert given == [protect_masks.MASKS_AT_A_TIME] * 2
    assert [rows_of(mask) for mask in masks] == [[i] for i in range(len(SIDES))]


def test_the_mask_fades_out_at_the_border() -> None:
    weights = protect_masks.fading(SIZE, 8)
    np.testing.assert_array_equal(weights, weights.T)
    np.testing.assert_array_equal(weights[8:-8, 8:-8], 1)
    assert 0 < weights[0].max() < 0.02
    assert (np.diff(weights[16, :9]) > 0).all()
    np.testing.assert_array_equal(protect_masks.fading(SIZE, 0), 1)
