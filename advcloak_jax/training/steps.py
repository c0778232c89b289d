"""The training steps of the generators, pure: step(state, batch) -> (state, metrics), and what every step shares.

Each is written for one device and averages over the mapped axis `DEVICES`, so that the same function runs under pmap or
shard_map on any number of devices. Losses that meet other devices' images (synchronised batch statistics) differentiate
correctly because every device sums the gradients it causes elsewhere, and the final mean restores the global average.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from advcloak_jax import config, images, losses, subspace
from advcloak_jax.networks.universal_mask import universal_mask
from advcloak_jax.training.state import GanState, UniversalState

DEVICES = "devices"
PyTree = Any
Metrics = dict[str, jax.Array]
Embed = Callable[[jax.Array], jax.Array]
"""Surrogate with its variables bound: images [B, H, W, C] in [0, 1] -> unit embeddings [B, d]."""


class RecognizerBatch(NamedTuple):
    """faces [b, H, W, C] in [0, 1]; labels [b] int32; positions [b] int32 in the global batch; key of this step."""

    faces: jax.Array
    labels: jax.Array
    positions: jax.Array
    key: jax.Array


class ImageBatch(NamedTuple):
    """faces [b, H, W, C] in [0, 1]; embeddings [b, d] of the originals; positions [b] in the global batch; key."""

    faces: jax.Array
    embeddings: jax.Array
    positions: jax.Array
    key: jax.Array


class PersonBatch(NamedTuple):
    """faces [p, n, H, W, C] in [0, 1]; embeddings [p, n, d]; spaces: Subspace of p persons; positions [p * n]; key."""

    faces: jax.Array
    embeddings: jax.Array
    spaces: subspace.Subspace
    positions: jax.Array
    key: jax.Array


class Gan(NamedTuple):
    """The two networks, their optimiser and the weights of the losses."""

    generator: nn.Module
    discriminator: nn.Module
    optimiser: optax.GradientTransformation
    lambda_norm: float
    lambda_adversarial: float
    norm_floor: float
    global_batch: int


def mirror_half(faces: jax.Array, key: jax.Array, positions: jax.Array) -> jax.Array:
    """Mirror each face [b, H, W, C] with probability 1/2, decided by (key, global position) alone."""
    mirrored = jax.vmap(lambda position: jax.random.bernoulli(jax.random.fold_in(key, position)))(positions)
    return jnp.where(mirrored[:, None, None, None], faces[:, :, ::-1], faces)


def _discriminator_update(
    gan: Gan, state: GanState, faces: jax.Array, fakes: jax.Array, positions: jax.Array, key: jax.Array
) -> tuple[PyTree, optax.OptState, jax.Array]:
    """One Adam step of D (Eq. 10, 11), originals and protected images as two batches: variables, optimiser, loss."""
    real_labels, fake_labels = losses.soft_labels(key, positions, gan.global_batch)

    def loss(params: PyTree) -> tuple[jax.Array, PyTree]:
        stats = state.discriminator["batch_stats"]
        real, updates = gan.discriminator.apply(
            {"params": params, "batch_stats": stats}, faces, train=True, mutable=["batch_stats"]
        )
        fake, updates = gan.discriminator.apply(
            {"params": params, **updates}, fakes, train=True, mutable=["batch_stats"]
        )
        return losses.discriminator_loss(real, fake, real_labels, fake_labels), updates["batch_stats"]

    (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(state.discriminator["params"])
    gradients = lax.pmean(gradients, DEVICES)
    params = state.discriminator["params"]
    updates, opt_state = gan.optimiser.update(gradients, state.discriminator_optimiser, params)
    return {"params": optax.apply_updates(params, updates), "batch_stats": stats}, opt_state, value


def _gan_step(
    gan: Gan,
    state: GanState,
    faces: jax.Array,
    positions: jax.Array,
    key: jax.Array,
    make_masks: Callable[[jax.Array], jax.Array],
    spread: Callable[[jax.Array], jax.Array],
    adversarial_loss: Callable[[jax.Array], jax.Array],
) -> tuple[GanState, Metrics]:
    """One D step, then one G step (Eq. 8, 9), on one forward pass of the generator.

    make_masks: raw generator output [b, H, W, C] -> masks [m, H, W, C] that count in the norm loss.
    spread: masks -> [b, H, W, C], the mask of every image. adversarial_loss: protected images [b, H, W, C] -> scalar.
    """

    def generate(params: PyTree) -> tuple[jax.Array, PyTree]:
        variables = {"params": params, "batch_stats": state.generator["batch_stats"]}
        raw, updates = gan.generator.apply(variables, faces, train=True, mutable=["batch_stats"])
        return make_masks(raw), updates["batch_stats"]

    masks, pull_back, generator_stats = jax.vjp(generate, state.generator["params"], has_aux=True)
    fakes = images.apply_mask(faces, spread(masks))
    discriminator, discriminator_optimiser, discriminator_value = _discriminator_update(
        gan, state, faces, fakes, positions, key
    )

    def loss(masks: jax.Array) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        protected = images.apply_mask(faces, spread(masks))
        logits, updates = gan.discriminator.apply(discriminator, protected, train=True, mutable=["batch_stats"])
        fooling = losses.generator_gan_loss(logits)
        norm = losses.norm_loss(masks, gan.norm_floor)
        adversarial = adversarial_loss(protected)
        total = losses.total(fooling, norm, adversarial, gan.lambda_norm, gan.lambda_adversarial)
        parts = {"generator": total, "gan": fooling, "norm": norm, "adversarial": adversarial}
        return total, (updates["batch_stats"], parts)

    (_, (discriminator_stats, parts)), mask_gradient = jax.value_and_grad(loss, has_aux=True)(masks)
    (gradients,) = pull_back(mask_gradient)
    gradients = lax.pmean(gradients, DEVICES)
    params = state.generator["params"]
    updates, generator_optimiser = gan.optimiser.update(gradients, state.generator_optimiser, params)
    new = GanState(
        state.step + 1,
        {"params": optax.apply_updates(params, updates), "batch_stats": generator_stats},
        {"params": discriminator["params"], "batch_stats": discriminator_stats},
        generator_optimiser,
        discriminator_optimiser,
    )
    return new, lax.pmean({**parts, "discriminator": discriminator_value}, DEVICES)


def image_step(gan: Gan, embed: Embed) -> Callable[[GanState, ImageBatch], tuple[GanState, Metrics]]:
    """Stage I: one mask per image (Eq. 10, 12, 14)."""

    def step(state: GanState, batch: ImageBatch) -> tuple[GanState, Metrics]:
        def adversarial(protected: jax.Array) -> jax.Array:
            return losses.cosine_loss(embed(protected), batch.embeddings)

        return _gan_step(
            gan, state, batch.faces, batch.positions, batch.key, lambda raw: raw, lambda masks: masks, adversarial
        )

    return step


def person_step(
    gan: Gan, embed: Embed, settings: config.PersonConfig, warmup_steps: int
) -> Callable[[GanState, PersonBatch], tuple[GanState, Metrics]]:
    """Stage II: one mask per person, pushed away from the person's feature subspace (Eq. 11, 13, 15-19).

    With the convex hull, the class centre stands in for the first `warmup_steps` steps.
    """

    def reference(batch: PersonBatch, adversarial: jax.Array, step: jax.Array) -> jax.Array:
        """Point each adversarial embedding [p, n, d] is pushed away from, a constant of the backward pass."""
        if settings.subspace == "plain":
            return batch.embeddings
        nearest = subspace.project(
            batch.spaces,
            adversarial,
            kind=settings.subspace,
            lower=settings.lower,
            upper=settings.upper,
            iterations=settings.projection_iterations,
            polish=settings.projection_polish,
        )
        if settings.subspace != "convex-hull" or warmup_steps == 0:
            return nearest
        centre = subspace.project(batch.spaces, adversarial, kind="class-centre")
        return jnp.where(step < warmup_steps, centre, nearest)

    distance_loss = losses.cosine_loss if settings.distance == "cosine" else losses.euclidean_loss

    def step(state: GanState, batch: PersonBatch) -> tuple[GanState, Metrics]:
        persons, per_person = batch.faces.shape[:2]
        flat = batch.faces.reshape(-1, *batch.faces.shape[2:])

        def make_masks(raw: jax.Array) -> jax.Array:
            return images.aggregate(raw.reshape(persons, per_person, *raw.shape[1:]))

        def adversarial(protected: jax.Array) -> jax.Array:
            embeddings = embed(protected).reshape(persons, per_person, -1)
            return distance_loss(embeddings, reference(batch, embeddings, state.step))

        def spread(masks: jax.Array) -> jax.Array:
            return jnp.repeat(masks, per_person, axis=0)

        return _gan_step(gan, state, flat, batch.positions, batch.key, make_masks, spread, adversarial)

    return step


class Universal(NamedTuple):
    """The generator of one mask for everybody, its optimiser, and the largest change of a pixel, of 255."""

    generator: nn.Module
    optimiser: optax.GradientTransformation
    epsilon: float


def universal_step(
    universal: Universal, embed: Embed, noise: jax.Array
) -> Callable[[UniversalState, ImageBatch], tuple[UniversalState, Metrics]]:
    """GAP: the mask that the generator makes of `noise` [1, H, W, 3] is put on every image of the batch (Eq. 14).

    Every device makes the same mask of the same noise, so that there are no statistics to share.
    """

    def step(state: UniversalState, batch: ImageBatch) -> tuple[UniversalState, Metrics]:
        def loss(params: PyTree) -> tuple[jax.Array, PyTree]:
            variables = {"params": params, "batch_stats": state.generator["batch_stats"]}
            mask, stats = universal_mask(universal.generator, variables, noise, universal.epsilon)
            protected = images.apply_mask(batch.faces, mask)
            return losses.cosine_loss(embed(protected), batch.embeddings), stats

        params = state.generator["params"]
        (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        gradients = lax.pmean(gradients, DEVICES)
        updates, optimiser = universal.optimiser.update(gradients, state.optimiser, params)
        generator = {"params": optax.apply_updates(params, updates), "batch_stats": stats}
        return UniversalState(state.step + 1, generator, optimiser), lax.pmean({"adversarial": value}, DEVICES)

    return step
