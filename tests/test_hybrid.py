"""The hybrid: starts where the generator left off, stays on the sphere of the deployed norm, and hides better."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_training as small

from advcloak_jax import images
from advcloak_jax.cloaks.averaged import averaged, per_image, person_masks
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.cloaks.hybrid import refined
from advcloak_jax.config.cloaks import HybridSettings
from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.recognizer import Recognizer, embed

NORM = 1200 * small.SIZE / 112 / 255
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def data() -> small.Data:
    return small.make_data()


@pytest.fixture(scope="module")
def start(data: small.Data) -> Cloak:
    module = small.SmallGenerator()
    variables = module.init(jax.random.key(1), data.faces[0], train=False)
    return averaged("AdvCloak", module, variables)


def surrogate(data: small.Data) -> Recognizer:
    return Recognizer(small.SmallRecognizer(), data.surrogate)


def hidden(data: small.Data, masks: jax.Array) -> float:
    """1 - cosine of protected to clean embeddings, at the deployed norm."""
    worn = images.apply_mask(data.faces, images.rescale(masks, NORM * 255)[:, None])
    found = embed(small.SmallRecognizer(), data.surrogate, small.flat(worn))
    return 1 - float((found * small.flat(data.embeddings)).sum(-1).mean())


@pytest.mark.parametrize("subspace", ["plain", "convex-hull"])
def test_more_steps_hide_more(data: small.Data, start: Cloak, subspace: str) -> None:
    settings = [HybridSettings(steps=steps, subspace=subspace) for steps in (1, 4)]
    made = [refined("Hybrid", start, [surrogate(data)], one).make_masks(data.faces, KEY) for one in settings]
    none, one, four = (hidden(data, masks) for masks in (start.make_masks(data.faces, KEY), *made))
    assert one > 1.1 * none
    assert four > 1.3 * one
    np.testing.assert_allclose(images.l2_norm(made[1]), NORM, rtol=1e-5)


def test_a_short_step_stays_near_the_start(data: small.Data, start: Cloak) -> None:
    settings = HybridSettings(steps=1, step_size=1e-3)
    masks = refined("Hybrid", start, [surrogate(data)], settings).make_masks(data.faces, KEY)
    before = images.rescale(start.make_masks(data.faces, KEY), NORM * 255)
    moved = images.l2_norm(masks - before)
    assert float(moved.max()) <= 1.01e-3 * NORM
    assert float(moved.min()) > 1e-4 * NORM


def test_a_person_whose_start_is_nothing_or_no_number_harms_no_other(data: small.Data, start: Cloak) -> None:
    def broken(faces: jax.Array, key: jax.Array) -> jax.Array:
        return start.make_masks(faces, key).at[0].set(0.0).at[1].set(jnp.nan)

    whole = refined("Hybrid", start, [surrogate(data)], HybridSettings()).make_masks(data.faces, KEY)
    other = Cloak("broken", "person", broken)
    masks = refined("Hybrid", other, [surrogate(data)], HybridSettings()).make_masks(data.faces, KEY)
    np.testing.assert_array_equal(masks[2:], whole[2:])
    assert np.isfinite(masks[0]).all()
    assert not np.isfinite(masks[1]).all()


def test_a_start_without_masks_per_person_is_refused(data: small.Data) -> None:
    nobody = Cloak("GAP", "universal", lambda faces, key: jnp.zeros(faces.shape[2:]))
    with pytest.raises(UserError, match="cannot start from GAP"):
        refined("Hybrid", nobody, [surrogate(data)], HybridSettings())


def test_advfaces_masks_are_those_of_each_image(data: small.Data) -> None:
    module = small.SmallGenerator()
    variables = module.init(jax.random.key(1), data.faces[0], train=False)
    faces = jnp.concatenate([data.faces, data.faces[:1] * 0.5])
    cloak = per_image("AdvFaces", module, variables)
    masks = cloak.make_masks(faces, KEY)
    assert (cloak.kind, masks.shape) == ("image", faces.shape)
    np.testing.assert_allclose(masks.mean(1), person_masks(module, variables, faces), atol=1e-6)
    each = module.apply(variables, faces[4], train=False)
    np.testing.assert_allclose(masks[4], each, atol=1e-6)
