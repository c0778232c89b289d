"""Masks per person: the mean of a generator's masks, in blocks that change nothing; and random ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_training as small

from advcloak_jax.cloaks.averaged import PERSONS_AT_A_TIME, averaged, person_masks
from advcloak_jax.cloaks.noise import noise


@pytest.fixture(scope="module")
def variables() -> dict[str, object]:
    module = small.SmallGenerator()
    found = jax.jit(lambda: module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))()
    # Statistics that a batch would not have, so that evaluation and training mode differ.
    found["batch_stats"] = jax.tree.map(lambda x: x + 0.3, found["batch_stats"])
    return found


def faces(persons: int, images: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).uniform(size=(persons, images, 8, 8, 3)), jnp.float32)


def test_a_persons_mask_is_the_mean_of_its_images_masks(variables: dict[str, object]) -> None:
    photos = faces(2, 3)
    found = person_masks(small.SmallGenerator(), variables, photos)
    for person in range(2):
        each = [small.SmallGenerator().apply(variables, photo[None], train=False)[0] for photo in photos[person]]
        np.testing.assert_allclose(found[person], sum(each) / 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("persons", [1, PERSONS_AT_A_TIME, PERSONS_AT_A_TIME + 1])
def test_blocks_of_persons_change_nothing(variables: dict[str, object], persons: int) -> None:
    photos = faces(persons, 2)
    cloak = averaged("AdvCloak", small.SmallGenerator(), variables)
    found = cloak.make_masks(photos, jax.random.key(0))
    assert (cloak.name, cloak.kind, found.shape) == ("AdvCloak", "person", (persons, 8, 8, 3))
    np.testing.assert_allclose(found, person_masks(small.SmallGenerator(), variables, photos), rtol=1e-5, atol=1e-6)


def test_random_masks_are_normal_one_a_person_and_repeatable() -> None:
    masks = noise().make_masks(faces(40, 2), jax.random.key(1))
    assert masks.shape == (40, 8, 8, 3)
    assert abs(float(masks.mean())) < 0.05
    assert abs(float(masks.std()) - 1) < 0.05
    assert abs(np.corrcoef(masks.reshape(40, -1))[np.triu_indices(40, 1)]).max() < 0.4
    np.testing.assert_array_equal(masks, noise().make_masks(faces(40, 2), jax.random.key(1)))
    assert not np.array_equal(masks, noise().make_masks(faces(40, 2), jax.random.key(2)))
