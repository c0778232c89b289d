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


def made(cloak_kind: Any, **settings: Any) -> tuple[np.ndarray, list[int]]:
    """The masks of six photos with ever larger faces by a cloak that gives a face back, and how many it was given."""
    given = []

    def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
        given.append(faces.shape[1])
        return faces if cloak_kind == "image" else faces.mean(1)

    found = [
        Found(Path(f"{i}.png"), Face(np.full((SIZE, SIZE, 3), 20 * i + 20, np.uint8), matrix, None), 1, None)
        for i, matrix in enumerate(alignment.whole(side, side, SIZE) for side in (40, 90, 80, 70, 60, 50))
    ]
    config = ProtectConfig(photos="in", out="out", fade=0, **settings)
    return protect_masks.make_masks(Cloak("given", cloak_kind, make_masks), found, config, SIZE), given


def test_the_mask_is_made_from_the_largest_faces() -> None:
    masks, given = made("person", mask_photos=2)
    assert given == [2]
    assert masks.shape == (6, SIZE, SIZE, 3)
    np.testing.assert_allclose(np.linalg.norm(masks.reshape(6, -1), axis=1) * 255, 1200 * SIZE / 112, rtol=1e-4)


def test_a_cloak_per_image_makes_each_photos_own_mask() -> None:
    masks, given = made("image")
    assert set(given) == {protect_masks.MASKS_AT_A_TIME}
    assert masks.shape == (6, SIZE, SIZE, 3)


def test_the_mask_fades_out_at_the_border() -> None:
    weights = protect_masks.fading(SIZE, 8)
    np.testing.assert_array_equal(weights, weights.T)
    np.testing.assert_array_equal(weights[8:-8, 8:-8], 1)
    assert 0 < weights[0].max() < 0.02
    assert (np.diff(weights[16, :9]) > 0).all()
    np.testing.assert_array_equal(protect_masks.fading(SIZE, 0), 1)
