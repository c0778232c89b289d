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
from advcloak_jax.training.accumulate import WHOLE, Parts, mean_over_parts
from advcloak_jax.training.state import GanState

DEVICES = "devices"
PyTree = Any
Metrics = dict[str, jax.Array]
Embed = Callable[[jax.Array], jax.Array]
"""Surrogate with its variables bound: images [B, H, W, C] in [0, 1] -> unit embeddings [B, d]."""
Originals = tuple[jax.Array, subspace.Subspace]
"""Embeddings [p, n, d] of p persons' originals, and the persons' subspaces."""


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
    parts: Parts = WHOLE


def mean_over_devices(tree: PyTree) -> PyTree:
    """Mean over DEVICES. One device exchanges nothing: XLA would keep an all-reduce with nobody, and fuse less."""
    return tree if lax.axis_size(DEVICES) == 1 else lax.pmean(tree, DEVICES)


def mirror_half(faces: jax.Array, key: jax.Array, positions: jax.Array) -> jax.Array:
    """Mirror each face [b, H, W, C] with probability 1/2, decided by (key, global position) alone."""
    mirrored = jax.vmap(lambda position: jax.random.bernoulli(jax.random.fold_in(key, position)))(positions)
    return jnp.where(mirrored[:, None, None, None], faces[:, :, ::-1], faces)


def _discriminator_loss(
    gan: Gan, params: PyTree, stats: PyTree, faces: jax.Array, fakes: jax.Array, labels: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, PyTree]:
    """Loss of D (Eq. 10, 11), originals and protected images as two batches, and its batch statistics after them.

    In one pass they take half as many kernels and exchanges between devices. A single CPU does neither, and the wider
    maps cost it more.
    """

    def judge(faces: jax.Array, stats: PyTree) -> tuple[jax.Array, PyTree]:
        variables = {"params": params, "batch_stats": stats}
        logits, updates = gan.discriminator.apply(variables, faces, train=True, mutable=["batch_stats"])
        return logits, updates["batch_stats"]

    if jax.default_backend() == "cpu" and lax.axis_size(DEVICES) == 1:
        real, stats = judge(faces, stats)
        fake, stats = judge(fakes, stats)
    else:
        (real, fake), stats = judge(jnp.stack([faces, fakes]), stats)
    return losses.discriminator_loss(real, fake, *labels), stats


def update(
    optimiser: optax.GradientTransformation, gradients: PyTree, state: optax.OptState, params: PyTree
) -> tuple[PyTree, optax.OptState]:
    """Parameters and optimiser's state after the mean over devices of their gradients."""
    updates, state = optimiser.update(mean_over_devices(gradients), state, params)
    return optax.apply_updates(params, updates), state


class _Share(NamedTuple):
    """A device's share of the batch: faces [b, H, W, C], labels of D (real [b], fake [b]), what the adversarial loss
    needs of the originals [p, ...], of p persons or images."""

    faces: jax.Array
    labels: tuple[jax.Array, jax.Array]
    originals: PyTree


def _gan_step(
    gan: Gan,
    state: GanState,
    share: _Share,
    make_masks: Callable[[jax.Array], jax.Array],
    spread: Callable[[jax.Array], jax.Array],
    adversarial_loss: Callable[[jax.Array, PyTree], jax.Array],
) -> tuple[GanState, Metrics]:
    """One D step, then one G step (Eq. 8, 9), on one forward pass of the generator, or on two where the share is cut.

    make_masks: raw generator output [b, H, W, C] -> masks [m, H, W, C] that count in the norm loss.
    spread: masks -> [b, H, W, C], the mask of every image. adversarial_loss: (protected images [b, H, W, C], what
    belongs to their originals) -> scalar.
    """
    params = state.generator["params"]

    def generate(stats: PyTree, faces: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], tuple[PyTree]], PyTree]:
        """Masks, the way back from their gradient to the parameters', and the batch statistics."""

        def forward(params: PyTree) -> tuple[jax.Array, PyTree]:
            variables = {"params": params, "batch_stats": stats}
            raw, updates = gan.generator.apply(variables, faces, train=True, mutable=["batch_stats"])
            return make_masks(raw), updates["batch_stats"]

        return jax.vjp(forward, params, has_aux=True)

    before = state.generator["batch_stats"]
    made = generate(before, share.faces) if gan.parts.count == 1 else None

    def judge(stats: PyTree, part: _Share, number: jax.Array) -> tuple[PyTree, tuple[jax.Array, PyTree]]:
        masks, _, _ = made or generate(before, part.faces)
        fakes = images.apply_mask(part.faces, spread(masks))
        (value, stats), gradients = jax.value_and_grad(
            lambda params: _discriminator_loss(gan, params, stats, part.faces, fakes, part.labels), has_aux=True
        )(state.discriminator["params"])
        return stats, (value, gradients)

    discriminator_stats, (judged, gradients) = mean_over_parts(
        judge, state.discriminator["batch_stats"], share, gan.parts
    )
    discriminator, discriminator_optimiser = update(
        gan.optimiser, gradients, state.discriminator_optimiser, state.discriminator["params"]
    )

    def deceive(stats: PyTree, part: _Share, number: jax.Array) -> tuple[PyTree, tuple[Metrics, PyTree]]:
        masks, pull_back, generator_stats = made or generate(stats["generator"], part.faces)

        def loss(masks: jax.Array) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
            protected = images.apply_mask(part.faces, spread(masks))
            variables = {"params": discriminator, "batch_stats": stats["discriminator"]}
            logits, updates = gan.discriminator.apply(variables, protected, train=True, mutable=["batch_stats"])
            fooling = losses.generator_gan_loss(logits)
            norm = losses.norm_loss(masks, gan.norm_floor)
            adversarial = adversarial_loss(protected, part.originals)
            total = losses.total(fooling, norm, adversarial, gan.lambda_norm, gan.lambda_adversarial)
            told = {"generator": total, "gan": fooling, "norm": norm, "adversarial": adversarial}
            return total, (updates["batch_stats"], told)

        (_, (discriminator_stats, told)), by_masks = jax.value_and_grad(loss, has_aux=True)(masks)
        (gradients,) = pull_back(by_masks)
        return {"generator": generator_stats, "discriminator": discriminator_stats}, (told, gradients)

    stats, (told, gradients) = mean_over_parts(
        deceive, {"generator": before, "discriminator": discriminator_stats}, share, gan.parts
    )
    generator, generator_optimiser = update(gan.optimiser, gradients, state.generator_optimiser, params)
    new = GanState(
        state.step + 1,
        {"params": generator, "batch_stats": stats["generator"]},
        {"params": discriminator, "batch_stats": stats["discriminator"]},
        generator_optimiser,
        discriminator_optimiser,
    )
    return new, mean_over_devices({**told, "discriminator": judged})


def image_step(gan: Gan, embed: Embed) -> Callable[[GanState, ImageBatch], tuple[GanState, Metrics]]:
    """Stage I: one mask per image (Eq. 10, 12, 14)."""

    def step(state: GanState, batch: ImageBatch) -> tuple[GanState, Metrics]:
        def adversarial(protected: jax.Array, embeddings: jax.Array) -> jax.Array:
            return losses.cosine_loss(embed(protected), embeddings)

        labels = losses.soft_labels(batch.key, batch.positions, gan.global_batch)
        share = _Share(batch.faces, labels, batch.embeddings)
        return _gan_step(gan, state, share, lambda raw: raw, lambda masks: masks, adversarial)

    return step


def person_step(
    gan: Gan, embed: Embed, settings: config.PersonConfig, warmup_steps: int
) -> Callable[[GanState, PersonBatch], tuple[GanState, Metrics]]:
    """Stage II: one mask per person, pushed away from the person's feature subspace (Eq. 11, 13, 15-19).

    With the convex hull, the class centre stands in for the first `warmup_steps` steps. With masks "image" each image
    keeps its own mask, and everything else is the same.
    """
    per_image = settings.masks == "image"

    def reference(originals: Originals, adversarial: jax.Array, step: jax.Array) -> jax.Array:
        """Point each adversarial embedding [p, n, d] is pushed away from, a constant of the backward pass."""
        embeddings, spaces = originals
        if settings.subspace == "plain":
            return embeddings
        nearest = subspace.project(
            spaces,
            adversarial,
            kind=settings.subspace,
            lower=settings.lower,
            upper=settings.upper,
            iterations=settings.projection_iterations,
            polish=settings.projection_polish,
            solver=settings.projection_solver,
        )
        if settings.subspace != "convex-hull" or warmup_steps == 0:
            return nearest
        centre = subspace.project(spaces, adversarial, kind="class-centre")
        return jnp.where(step < warmup_steps, centre, nearest)

    distance_loss = losses.cosine_loss if settings.distance == "cosine" else losses.euclidean_loss

    def step(state: GanState, batch: PersonBatch) -> tuple[GanState, Metrics]:
        per_person = batch.faces.shape[1]
        flat = batch.faces.reshape(-1, *batch.faces.shape[2:])

        def by_person(values: jax.Array) -> jax.Array:
            return values.reshape(-1, per_person, *values.shape[1:])

        def make_masks(raw: jax.Array) -> jax.Array:
            return raw if per_image else images.aggregate(by_person(raw))

        def adversarial(protected: jax.Array, originals: Originals) -> jax.Array:
            embeddings = by_person(embed(protected))
            return distance_loss(embeddings, reference(originals, embeddings, state.step))

        def spread(masks: jax.Array) -> jax.Array:
            return masks if per_image else jnp.repeat(masks, per_person, axis=0)

        labels = losses.soft_labels(batch.key, batch.positions, gan.global_batch)
        share = _Share(flat, labels, (batch.embeddings, batch.spaces))
        return _gan_step(gan, state, share, make_masks, spread, adversarial)

    return step
