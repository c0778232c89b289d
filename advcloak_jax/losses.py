"""The objectives of both stages, Eq. 8-19, as pure functions of arrays; everything is computed in float32.

Each loss is a mean over the batch, so that on several devices with equal shares the mean of the shares' losses is the
whole batch's loss.
"""

import jax
import jax.numpy as jnp

FLIPPED_SHARE = 0.05
"""Share of each batch's discriminator labels that are flipped (the authors' code)."""

_SMALLEST_NORM = 1e-6
_DISTANCE_BLUR = 1e-3


def soft_labels(step_key: jax.Array, positions: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
    """The discriminator's noisy labels of one step (the authors' code): (real [b], fake [b]), float32.

    `positions` [b] int32 are the places 0 .. batch-1 of this device's images in the global batch of `batch` images.
    Real labels are uniform in [0.9, 1], fake ones in [0, 0.1]; then, in each of the two sets, the labels y of exactly
    floor(0.05 * batch) places become 1 - y. A label depends on the key and its place only, so any number of devices
    draws the same.
    """
    real_key, fake_key, real_flip_key, fake_flip_key = jax.random.split(step_key, 4)
    real = 1 - 0.1 * _uniform_at(real_key, positions)
    fake = 0.1 * _uniform_at(fake_key, positions)
    return (
        jnp.where(_flipped(real_flip_key, positions, batch), 1 - real, real),
        jnp.where(_flipped(fake_flip_key, positions, batch), 1 - fake, fake),
    )


def _uniform_at(key: jax.Array, positions: jax.Array) -> jax.Array:
    return jax.vmap(lambda place: jax.random.uniform(jax.random.fold_in(key, place)))(positions)


def _flipped(key: jax.Array, positions: jax.Array, batch: int) -> jax.Array:
    _, chosen = jax.lax.top_k(jax.random.uniform(key, (batch,)), int(FLIPPED_SHARE * batch))
    return jnp.any(positions[:, None] == chosen[None, :], axis=-1)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean binary cross-entropy of logits [B, ...] with labels in [0, 1], one per image [B]; finite for any logit."""
    logits = logits.astype(jnp.float32)
    labels = labels.astype(jnp.float32).reshape(-1, *[1] * (logits.ndim - 1))
    return jnp.mean(jax.nn.softplus(logits) - labels * logits)


def discriminator_loss(
    real_logits: jax.Array, fake_logits: jax.Array, real_labels: jax.Array, fake_labels: jax.Array
) -> jax.Array:
    """What D minimises in Eq. 9-11: the cross-entropies of originals and protected images, added.

    Patch logits [B, h, w, 1], labels [B] (see `soft_labels`). Stage II: every image of a person under the person's one
    mask.
    """
    return binary_cross_entropy(real_logits, real_labels) + binary_cross_entropy(fake_logits, fake_labels)


def generator_gan_loss(fake_logits: jax.Array) -> jax.Array:
    """What G minimises in Eq. 9-11, L_GAN: cross-entropy of protected images' patch logits [B, h, w, 1] with label 1.

    The non-saturating form of the authors' code; the equations print log(1 - D(X')).
    """
    return jnp.mean(jax.nn.softplus(-fake_logits.astype(jnp.float32)))


def norm_loss(masks: jax.Array, floor: float = 3.0) -> jax.Array:
    """L_norm = mean max(||mask||_2, floor) over masks [B, H, W, C] of scale [0, 1] (Eq. 12, 13).

    Stage I has a mask per image, stage II one per person. A mask weaker than `floor` gets no gradient, and none is NaN
    at a zero mask.
    """
    squares = jnp.sum(jnp.square(masks.astype(jnp.float32)), axis=(-3, -2, -1))
    return jnp.mean(jnp.sqrt(jnp.maximum(squares, max(floor, _SMALLEST_NORM) ** 2)))


def cosine_loss(adversarial: jax.Array, reference: jax.Array) -> jax.Array:
    """Mean cosine of the protected images' features [..., d] to reference features [..., d].

    Eq. 14 and 15 with the originals' features, Eq. 16-19 as in the authors' code with `subspace.project`'s nearest
    points. A reference near the origin gives a cosine near 0 and a finite gradient.
    """
    return jnp.mean(jnp.sum(_unit(adversarial) * _unit(reference), axis=-1))


def _unit(features: jax.Array) -> jax.Array:
    features = features.astype(jnp.float32)
    squares = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squares, _SMALLEST_NORM**2))


def euclidean_loss(adversarial: jax.Array, nearest: jax.Array) -> jax.Array:
    """Minus the mean distance of protected images' features [..., d] to `nearest` [..., d] (Eq. 16-19 as printed).

    `nearest` comes from `subspace.project`. The distance r is taken as sqrt(r^2 + 1e-6): unchanged to 1e-5 where it
    matters (r > 0.25), and with a gradient that fades to 0 inside the hull, where r is the solver's error and its
    direction noise.
    """
    squares = jnp.sum(jnp.square(adversarial.astype(jnp.float32) - nearest), axis=-1)
    return -jnp.mean(jnp.sqrt(squares + _DISTANCE_BLUR**2))


def total(gan: jax.Array, norm: jax.Array, adversarial: jax.Array, lambda_norm: float, lambda_adv: float) -> jax.Array:
    """L_G = L_GAN + lambda_norm * L_norm + lambda_adv * L_adv (Eq. 8)."""
    return gan + lambda_norm * norm + lambda_adv * adversarial
