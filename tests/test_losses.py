"""Eq. 8-19 against float64 NumPy arithmetic, their gradients against finite differences of that arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advcloak_jax import losses, subspace

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (4, 2, 2, 1)).astype(np.float32)
OTHER_LOGITS = RNG.normal(0, 3, (4, 2, 2, 1)).astype(np.float32)
REAL = RNG.uniform(0.9, 1, 4).astype(np.float32)
FAKE = RNG.uniform(0, 0.1, 4).astype(np.float32)
FEATURES = RNG.normal(size=(2, 3, 5)).astype(np.float32)
REFERENCE = RNG.normal(size=(2, 3, 5)).astype(np.float32)


def finite_differences(function, point, step=1e-5):
    point = np.asarray(point, np.float64)
    gradient = np.zeros_like(point)
    for place in np.ndindex(point.shape):
        away = np.zeros_like(point)
        away[place] = step
        gradient[place] = (function(point + away) - function(point - away)) / (2 * step)
    return gradient


def assert_same_value_and_gradient(loss, reference, point):
    value, gradient = jax.jit(jax.value_and_grad(loss))(point)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, reference(np.asarray(point, np.float64)), rtol=1e-5)
    np.testing.assert_allclose(gradient, finite_differences(reference, point), rtol=1e-3, atol=1e-5)


def cross_entropy(logits, labels):
    total = 0.0
    for patches, label in zip(logits, labels, strict=True):
        for logit in patches.ravel():
            real = 1 / (1 + np.exp(-logit))
            total -= label * np.log(real) + (1 - label) * np.log(1 - real)
    return total / logits.size


def mean_cosine(features, reference):
    pairs = zip(features.reshape(-1, 5), reference.reshape(-1, 5), strict=True)
    return np.mean([f @ r / np.linalg.norm(f) / np.linalg.norm(r) for f, r in pairs])


def test_discriminator_loss_eq_9_to_11():
    real_part = cross_entropy(LOGITS.astype(np.float64), REAL)
    fake_part = cross_entropy(OTHER_LOGITS.astype(np.float64), FAKE)
    assert_same_value_and_gradient(
        lambda x: losses.discriminator_loss(x, OTHER_LOGITS, REAL, FAKE),
        lambda x: cross_entropy(x, REAL) + fake_part,
        LOGITS,
    )
    assert_same_value_and_gradient(
        lambda x: losses.discriminator_loss(LOGITS, x, REAL, FAKE),
        lambda x: real_part + cross_entropy(x, FAKE),
        OTHER_LOGITS,
    )


def test_generator_gan_loss_eq_9_to_11():
    assert_same_value_and_gradient(losses.generator_gan_loss, lambda x: cross_entropy(x, np.ones(4)), LOGITS)


def test_cross_entropy_is_exact_for_extreme_logits():
    logits = jnp.array([[-1e4], [1e4], [-1e4], [1e4]])
    labels = jnp.array([0.0, 1.0, 1.0, 0.1])
    value, gradient = jax.value_and_grad(losses.binary_cross_entropy)(logits, labels)
    assert value == pytest.approx((0 + 0 + 1e4 + 9e3) / 4)
    np.testing.assert_allclose(gradient[:, 0], np.array([0, 0, -1, 0.9]) / 4, atol=1e-7)


def test_half_precision_logits_are_averaged_in_float32():
    assert losses.generator_gan_loss(LOGITS.astype(jnp.bfloat16)).dtype == jnp.float32
    assert losses.discriminator_loss(*[LOGITS.astype(jnp.bfloat16)] * 2, REAL, FAKE).dtype == jnp.float32


@pytest.mark.parametrize("floor", [3.0, 0.5])
def test_norm_loss_eq_12_and_13(floor):
    masks = RNG.normal(size=(3, 3, 2, 3)).astype(np.float32) * np.array([0.1, 1, 4], np.float32)[:, None, None, None]
    assert_same_value_and_gradient(
        lambda x: losses.norm_loss(x, floor), lambda x: np.mean([max(np.linalg.norm(one), floor) for one in x]), masks
    )


@pytest.mark.parametrize("floor", [3.0, 0.0])
def test_norm_loss_at_a_zero_mask(floor):
    value, gradient = jax.value_and_grad(losses.norm_loss)(jnp.zeros((2, 4, 4, 3)), floor)
    assert value == pytest.approx(floor, abs=1e-5)
    np.testing.assert_array_equal(gradient, 0)


def test_cosine_loss_eq_14_and_15():
    assert_same_value_and_gradient(
        lambda x: losses.cosine_loss(x, REFERENCE), lambda x: mean_cosine(x, REFERENCE.astype(np.float64)), FEATURES
    )


def test_cosine_to_a_vanishing_reference_is_small_and_its_gradients_finite():
    value_and_gradients = jax.jit(jax.value_and_grad(losses.cosine_loss, argnums=(0, 1)))
    for size in (0.0, 1e-12, 1e-7, 1e-5):
        value, gradients = value_and_gradients(FEATURES, size * REFERENCE)
        assert abs(value) <= 1
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        assert np.abs(gradients[0]).max() < 1
    assert losses.cosine_loss(FEATURES, 0 * REFERENCE) == 0


def test_euclidean_loss_eq_16_to_19():
    assert_same_value_and_gradient(
        lambda x: losses.euclidean_loss(x, REFERENCE),
        lambda x: -np.mean(np.linalg.norm(x - REFERENCE.astype(np.float64), axis=-1)),
        FEATURES,
    )


def test_euclidean_loss_at_distance_zero():
    value, gradient = jax.value_and_grad(losses.euclidean_loss)(FEATURES, FEATURES)
    assert value == pytest.approx(0, abs=2e-3)
    np.testing.assert_array_equal(gradient, 0)


# A person with two images: the affine hull is a line, the convex hull a segment, every projection a closed form.
PAIR = RNG.normal(size=(2, 2, 5))
PAIR /= np.linalg.norm(PAIR, axis=-1, keepdims=True)
SHARE = {
    "class-centre": lambda share: np.full_like(share, 0.5),
    "affine-hull": lambda share: share,
    "convex-hull": lambda share: np.clip(share, 0, 1),
}


def nearest_of_pair(kind, points):
    start, way = PAIR[:, :1], PAIR[:, 1:] - PAIR[:, :1]
    share = ((points - start) * way).sum(-1, keepdims=True) / (way * way).sum(-1, keepdims=True)
    return start + SHARE[kind](share) * way


@pytest.mark.parametrize("kind", list(SHARE))
def test_subspace_losses_eq_16_to_19(kind):
    unit = FEATURES / np.linalg.norm(FEATURES, axis=-1, keepdims=True)
    fitted = subspace.fit(jnp.asarray(PAIR, jnp.float32))
    # Distance: the reference moves its nearest point with the features, the graph must not need to (Danskin).
    assert_same_value_and_gradient(
        lambda x: losses.euclidean_loss(x, subspace.project(fitted, x, kind=kind, iterations=50)),
        lambda x: -np.mean(np.linalg.norm(x - nearest_of_pair(kind, x), axis=-1)),
        unit,
    )
    # Cosine: the nearest point is a constant by definition, as in the authors' code.
    constant = nearest_of_pair(kind, unit.astype(np.float64))
    assert_same_value_and_gradient(
        lambda x: losses.cosine_loss(x, subspace.project(fitted, x, kind=kind, iterations=50)),
        lambda x: mean_cosine(x, constant),
        unit,
    )


@pytest.mark.parametrize("kind", list(SHARE))
def test_subspace_losses_are_finite_at_a_vertex_inside_and_with_the_origin_in_the_hull(kind):
    vertices = jnp.asarray(PAIR, jnp.float32)
    opposite = jnp.stack([vertices[:, 0], -vertices[:, 0]], 1)  # the class centre is the origin
    rows = jnp.concatenate([vertices, opposite, jnp.stack([vertices[:, 0]] * 2, 1)])
    points = jnp.concatenate([rows, rows.mean(1, keepdims=True), jnp.zeros_like(rows[:, :1])], 1)

    def both(x):
        nearest = subspace.project(subspace.fit(rows), x, kind=kind)
        return losses.cosine_loss(x, nearest) + losses.euclidean_loss(x, nearest)

    value, gradient = jax.jit(jax.value_and_grad(both))(points)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_total_eq_8():
    assert losses.total(jnp.float32(2), jnp.float32(3), jnp.float32(0.5), 1.0, 15.0) == pytest.approx(2 + 3 + 7.5)


draw = jax.jit(losses.soft_labels, static_argnames="batch")


@pytest.mark.parametrize(("batch", "flipped"), [(8, 0), (32, 1), (100, 5)])
def test_soft_labels_flip_an_exact_share(batch, flipped):
    for seed in range(5):
        real, fake = (np.asarray(labels) for labels in draw(jax.random.key(seed), np.arange(batch), batch=batch))
        for labels, other_side in ((real, real <= 0.1), (fake, fake >= 0.9)):
            assert labels.shape == (batch,)
            assert other_side.sum() == flipped
            assert (((labels >= 0) & (labels <= 0.1)) | ((labels >= 0.9) & (labels <= 1))).all()


def test_soft_labels_are_uniform_in_their_range_and_unlike_each_other():
    real, fake = draw(jax.random.key(0), np.arange(2000), batch=2000)
    for labels in (np.asarray(real) - 0.9, np.asarray(fake)):
        kept = np.sort(labels[(labels >= 0) & (labels <= 0.11)])
        np.testing.assert_allclose(kept, np.linspace(0, 0.1, len(kept)), atol=5e-3)
    assert np.abs(np.corrcoef(real, fake)[0, 1]) < 0.1
    assert not np.array_equal(np.asarray(real) < 0.5, np.asarray(fake) > 0.5)


def test_soft_labels_do_not_depend_on_the_number_of_devices_but_on_the_step():
    batch = 64
    whole = draw(jax.random.key(3), np.arange(batch), batch=batch)
    shares = [draw(jax.random.key(3), share, batch=batch) for share in np.arange(batch).reshape(4, -1)]
    for labels, parts in zip(whole, zip(*shares, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), labels)
    assert not np.isclose(draw(jax.random.key(4), np.arange(batch), batch=batch)[0], whole[0]).all()
