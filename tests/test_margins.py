"""Losses equal PyTorch's, stay differentiable where the angle is 0 or pi, and do what their papers say."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import uniform

from advcloak_jax import settings
from advcloak_jax.config import RecognizerConfig
from advcloak_jax.errors import UserError
from advcloak_jax.jobs import recognizer
from advcloak_jax.recognizers import margins

GOLDEN = np.load(Path(__file__).parent / "golden" / "margins.npz")
CLASSES = 9
CLASSIFIER = {
    "weights": jnp.asarray(uniform("margins.weights", (16, CLASSES))),
    "bias": jnp.linspace(-1.0, 1.0, CLASSES),
}
LABELS = jnp.asarray(GOLDEN["labels"], jnp.int32)
FEATURES = jnp.asarray(GOLDEN["features"], jnp.float32)
ALL = margins.Columns(0, CLASSES, None)
NAMES = tuple(margins.PUBLISHED_MARGIN)


def published(name: str) -> margins.Margin:
    return recognizer.margin(RecognizerConfig(margin=name))  # type: ignore[arg-type]


@functools.partial(jax.jit, static_argnums=0)
def loss(
    name: str, features: jax.Array, classifier: Any, norms: margins.Norms | None, labels: jax.Array = LABELS
) -> margins.Outcome:
    columns = margins.Columns(0, classifier["weights"].shape[1], None)
    return margins.loss(published(name), features, classifier, labels, norms, columns, None)


LATER = margins.Norms(jnp.float32(3.0), jnp.float32(1.0))
CASES = [(name, name, None) for name in NAMES if name != "adaface"]
CASES += [("adaface", "adaface_first", margins.first_norms(published("adaface"))), ("adaface", "adaface_later", LATER)]


@pytest.mark.parametrize(("name", "key", "norms"), CASES, ids=[key for _, key, _ in CASES])
def test_values_and_gradients_equal_pytorch(name: str, key: str, norms: margins.Norms | None) -> None:
    def value(features: jax.Array, weights: jax.Array) -> tuple[jax.Array, margins.Outcome]:
        outcome = loss(name, features, {**CLASSIFIER, "weights": weights}, norms)
        return outcome.loss, outcome

    value_and_gradients = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))
    (found, outcome), gradients = value_and_gradients(FEATURES, CLASSIFIER["weights"])
    np.testing.assert_allclose(found, GOLDEN[f"{key}_loss"], rtol=1e-5)
    for gradient, by in zip(gradients, ("features", "weights"), strict=True):
        expected = GOLDEN[f"{key}_{by}"]
        # Close to angle 0 the sine magnifies float32's rounding of the cosine.
        np.testing.assert_allclose(gradient, expected, atol=1e-3 * np.abs(expected).max())
    if norms is None:
        assert outcome.norms is None
    else:
        np.testing.assert_allclose(outcome.norms, [GOLDEN[f"{key}_mean"], GOLDEN[f"{key}_std"]], rtol=1e-6)
        sizes = jnp.linalg.norm(FEATURES, axis=-1)
        np.testing.assert_allclose(margins.quality(sizes, outcome.norms, 0.333), GOLDEN[f"{key}_scaler"], atol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("arcface", 0.5), ("cosface", 0.35)])
def test_logits_equal_pytorch(name: str, value: float) -> None:
    cosine = margins.classify(FEATURES, CLASSIFIER["weights"])
    np.testing.assert_allclose(cosine, GOLDEN["cosine"], atol=1e-5)
    own = getattr(margins, name)(jnp.take_along_axis(cosine, LABELS[:, None], 1)[:, 0], value)
    expected = np.take_along_axis(GOLDEN[f"{name}_logits"], GOLDEN["labels"][:, None], 1)[:, 0]
    np.testing.assert_allclose(64 * own, expected, atol=2e-3)


def test_arcface_adds_the_margin_to_the_angle() -> None:
    angle = np.array([0.3, 1.2, 2.5], np.float32)
    np.testing.assert_allclose(margins.arcface(jnp.cos(angle), 0.4), np.cos(angle + 0.4), atol=1e-5)


def test_adaface_is_arcface_for_bad_faces_and_cosface_for_average_ones() -> None:
    angle = np.array([0.6, 1.2, 2.0], np.float32)
    cosine, whole = jnp.cos(angle), jnp.ones(3)
    np.testing.assert_allclose(margins.adaface(cosine, 0.4, -whole), np.cos(angle + 0.4), atol=1e-5)
    np.testing.assert_allclose(margins.adaface(cosine, 0.4, 0 * whole), np.cos(angle) - 0.4, atol=1e-5)
    np.testing.assert_allclose(margins.adaface(cosine, 0.4, whole), np.cos(angle - 0.4) - 0.8, atol=1e-5)


def test_sface_leaves_alone_what_is_close_enough_to_its_own_and_far_from_others() -> None:
    """Own angle 0.6, the other's 1.5: both forces have faded out. At 1.1 and 1.0 both pull at nearly full strength."""

    def strength(own: float, other: float) -> jax.Array:
        # Features in the plane of the first two axes, so that both angles are free.
        weights = jnp.array([[np.cos(own), np.cos(other)], [np.sin(own), -np.sin(other)]], jnp.float32)
        value = lambda w: loss("sface", jnp.eye(2)[:1], {"weights": w}, None, jnp.zeros(1, jnp.int32)).loss  # noqa: E731
        return jnp.abs(jax.grad(value)(weights)).max(0)

    assert (strength(0.6, 1.5) < 1e-4).all()
    assert (strength(1.1, 1.0) > 10).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_at_the_ends(name: str) -> None:
    """Features at, opposite and next to their class centre, and of length 0."""
    classifier = {"weights": jnp.eye(16)[:, :2], "bias": jnp.zeros(2)}
    labels = jnp.array([0, 1])
    norms = margins.first_norms(published(name))
    gradient = jax.jit(jax.grad(lambda f, c: loss(name, f, c, norms, labels).loss, (0, 1)))
    for cosine in (1.0, -1.0, 1.0 - 1e-7, 0.0):
        found = gradient(jnp.zeros((2, 16)).at[0, 0].set(cosine), classifier)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0 - 1e-7])
def test_the_margins_keep_rising_at_the_ends(cosine: float) -> None:
    for margin, value in ((margins.arcface, 0.5), (margins.cosface, 0.35)):
        slope = jax.grad(margin)(jnp.float32(cosine), value)
        assert jnp.isfinite(slope)
        assert slope > 0


def test_softmax_is_the_plain_product() -> None:
    bias = np.linspace(-1, 1, CLASSES)
    expected = np.asarray(FEATURES, np.float64) @ np.asarray(CLASSIFIER["weights"], np.float64) + bias
    np.testing.assert_allclose(margins.softmax(FEATURES, **CLASSIFIER), expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_padding_is_no_class(name: str) -> None:
    """Columns beyond the classes change nothing, whatever is in them, and get no gradient."""
    norms = margins.first_norms(published(name))
    padded = {
        "weights": jnp.concatenate([CLASSIFIER["weights"], 5 * FEATURES[:3].T], 1),
        "bias": jnp.concatenate([CLASSIFIER["bias"], jnp.full(3, 9.0)]),
    }

    def value(classifier: Any) -> tuple[jax.Array, jax.Array]:
        outcome = margins.loss(published(name), FEATURES, classifier, LABELS, norms, ALL, None)
        return outcome.loss, outcome.accuracy

    value_and_gradient = jax.jit(jax.value_and_grad(value, has_aux=True))
    (plain, accuracy), gradient = value_and_gradient(CLASSIFIER)
    (found, found_accuracy), wider = value_and_gradient(padded)
    np.testing.assert_allclose((found, found_accuracy), (plain, accuracy), rtol=1e-6)
    for key, expected in gradient.items():
        np.testing.assert_allclose(wider[key][..., :CLASSES], expected, atol=1e-6)
        assert not wider[key][..., CLASSES:].any()


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_features_give_float32_losses(name: str) -> None:
    """The features are rounded, nothing after them is."""
    rounded = FEATURES.astype(jnp.bfloat16)
    norms = margins.first_norms(published(name))
    low, same = (loss(name, features, CLASSIFIER, norms) for features in (rounded, rounded.astype(jnp.float32)))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(low))
    assert low.loss == same.loss


def test_accuracy_counts_the_first_of_equal_logits() -> None:
    same = {"weights": jnp.ones((16, 3)), "bias": jnp.zeros(3)}
    outcome = loss("softmax", FEATURES, same, None, jnp.array([0, 1, 2, 0, 1, 2]))
    np.testing.assert_allclose(outcome.accuracy, 1 / 3, rtol=1e-6)


def test_the_published_figures() -> None:
    found = {name: (published(name).scale, published(name).value) for name in NAMES}
    assert found["arcface"] == (64, 0.5)
    assert found["cosface"] == (64, 0.35)
    assert found["adaface"] == (64, 0.4)
    other = recognizer.margin(RecognizerConfig(margin="adaface", margin_value=0.0, margin_scale=30.0))
    assert (other.value, other.scale) == (0.0, 30.0)
    sface = published("sface")
    assert (sface.scale, sface.sface_k, sface.sface_a, sface.sface_b) == (64, 80, 0.87, 1.2)
    ada = published("adaface")
    assert (ada.adaface_h, ada.adaface_rate, *margins.first_norms(ada)) == (0.333, 0.01, 20, 100)  # type: ignore[misc]


def test_a_margin_left_open_survives_json_and_older_settings_are_read() -> None:
    """The default is what the loss's paper says, whichever loss a later flag chooses; older runs stored the number."""
    stored = json.loads(json.dumps(settings.to_dict(RecognizerConfig())))
    assert settings.from_dict(RecognizerConfig, stored, "config.json") == RecognizerConfig()
    older = {name: value for name, value in stored.items() if not name.startswith(("sface", "adaface"))}
    for name in ("classifier", "sampling"):
        del older[name]
    read = settings.from_dict(RecognizerConfig, {**older, "margin": "cosface", "margin_value": 0.4}, "config.json")
    assert recognizer.margin(read) == margins.Margin("cosface", 64.0, 0.4)
    with pytest.raises(UserError, match=r"margin_value is 'much'; it must be"):
        settings.from_dict(RecognizerConfig, {"margin_value": "much"}, "config.json")


@pytest.mark.parametrize(
    ("name", "value"), [("margin_value", -0.1), ("adaface_h", -1.0), ("adaface_rate", 0.0), ("sface_k", 0.0)]
)
def test_a_senseless_figure_is_refused_by_its_flag(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
        RecognizerConfig(**{name: value})  # type: ignore[arg-type]
