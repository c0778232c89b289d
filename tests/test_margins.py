"""Margins equal PyTorch's, and stay differentiable where the angle is 0 or pi."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.fill import uniform

from advcloak_jax.recognizers import margins

GOLDEN = np.load(Path(__file__).parent / "golden" / "margins.npz")
WEIGHTS = jnp.asarray(uniform("margins.weights", (16, 9)))
LABELS = jnp.asarray(GOLDEN["labels"], jnp.int32)
FEATURES = jnp.asarray(GOLDEN["features"], jnp.float32)


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_logits_and_gradients_equal_pytorch(name: str) -> None:
    margin = getattr(margins, name)
    cosine = margins.classify(FEATURES, WEIGHTS)
    np.testing.assert_allclose(cosine, GOLDEN["cosine"], atol=1e-5)
    # Close to angle 0 the sine magnifies float32's rounding of the cosine.
    np.testing.assert_allclose(margin(cosine, LABELS), GOLDEN[name], atol=2e-3)

    def loss(features: jax.Array) -> jax.Array:
        logits = margin(margins.classify(features, WEIGHTS), LABELS)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    expected = GOLDEN[f"{name}_gradient"]
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(FEATURES), expected, atol=1e-3 * np.abs(expected).max())


def test_arcface_adds_the_margin_to_the_angle_of_the_label_only() -> None:
    angle = np.array([0.3, 1.2, 2.5])
    cosine = jnp.cos(jnp.asarray(np.stack([angle, angle], 1), jnp.float32))
    logits = margins.arcface(cosine, jnp.array([1, 1, 1]), scale=10.0, margin=0.4)
    np.testing.assert_allclose(logits[:, 0], 10 * np.cos(angle), atol=1e-4)
    np.testing.assert_allclose(logits[:, 1], 10 * np.cos(angle + 0.4), atol=1e-4)


@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0 - 1e-7])
def test_gradients_are_finite_at_the_ends(cosine: float) -> None:
    values = jnp.full((1, 2), cosine)
    for margin in (margins.arcface, margins.cosface):
        slope = jax.grad(lambda c, margin=margin: margin(c, jnp.array([0]))[0, 0])(values)
        assert jnp.isfinite(slope).all()
        assert slope[0, 0] > 0
    features = jnp.zeros((1, 16)).at[0, 0].set(cosine)
    whole = jax.grad(lambda f: margins.arcface(margins.classify(f, jnp.eye(16)[:, :2]), jnp.array([0]))[0, 0])
    assert jnp.isfinite(whole(features)).all()
    assert jnp.isfinite(whole(jnp.zeros((1, 16)))).all()


def test_softmax_is_the_plain_product() -> None:
    bias = jnp.arange(9.0)
    expected = np.asarray(FEATURES, np.float64) @ np.asarray(WEIGHTS, np.float64) + np.arange(9)
    np.testing.assert_allclose(margins.softmax(FEATURES, WEIGHTS, bias), expected, atol=1e-5)
