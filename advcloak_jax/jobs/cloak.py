"""`train.py image` and `train.py person`: the two stages of the mask generator."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from advcloak_jax import hull_kernel, hull_solver, images, subspace
from advcloak_jax.cloaks.averaged import person_masks
from advcloak_jax.config import NO_STAGE_ONE, GeneratorConfig, ImageConfig, PersonConfig
from advcloak_jax.data import order, splits
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.rows import Chosen, Images
from advcloak_jax.data.splits import Split
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.targets import FlaxTarget
from advcloak_jax.jobs import inputs
from advcloak_jax.jobs.resident import Resident, make_resident
from advcloak_jax.networks.discriminator import Discriminator
from advcloak_jax.networks.generator import Generator
from advcloak_jax.recognizers.recognizer import Recognizer, embed
from advcloak_jax.training import flops, parallel, placement, state, steps
from advcloak_jax.training.accumulate import Parts
from advcloak_jax.training.feed import Feed
from advcloak_jax.training.feed_choice import make_feed
from advcloak_jax.training.loop import Job

_log = logging.getLogger("advcloak_jax")

PyTree = Any
COLUMNS = ("generator", "discriminator", "gan", "norm", "adversarial", "validation_image", "validation_person")
VALIDATION_IMAGES = 5
SAMPLE_PERSONS = 4
SHUFFLE_KEY = 0


class Validation:
    """How well masks of the deployed norm hide held-out persons from the surrogate itself.

    Each person's first images make the mask, the others wear it.
    """

    def __init__(self, config: GeneratorConfig, faces: FaceSet, split: Split, surrogate: Recognizer) -> None:
        per_person = [faces.images_of(int(person)) for person in split.validation]
        half = max(1, min(VALIDATION_IMAGES, min(len(own) for own in per_person) // 2))
        self.inference = faces.images[np.stack([own[:half] for own in per_person])]
        self.test = faces.images[np.stack([own[half : 2 * half] for own in per_person])]
        self._target = FlaxTarget("surrogate", surrogate.module, surrogate.variables)
        self._flat = self.test.reshape(-1, *self.test.shape[2:])
        self._clean = self._target.embed(self._flat)
        self._norm = images.mask_norm_at(config.image_size)
        self._generator = build_generator(config, axis_name=None)
        # Jitted once, so that every validation runs the same program.
        self._masks = jax.jit(lambda variables, faces: person_masks(self._generator, variables, images.to_unit(faces)))

    def _worn(self, variables: PyTree, *, per_image: bool) -> np.ndarray:
        """Protected test images [P, N, H, W, C] uint8; one person at a time, so that memory does not grow with P."""
        worn = []
        for inference, test in zip(self.inference, self.test, strict=True):
            masks = self._masks(variables, test[:, None] if per_image else inference[None])
            worn.append(images.protect(test, np.asarray(images.rescale(masks, self._norm))))
        return np.stack(worn)

    def __call__(self, state: state.GanState) -> dict[str, float]:
        """Mean cosine of protected to clean embeddings, with a mask per image and one per person: lower hides more."""
        return {
            name: self._cosine(self._worn(state.generator, per_image=per_image))
            for name, per_image in (("validation_image", True), ("validation_person", False))
        }

    def _cosine(self, worn: np.ndarray) -> float:
        return float((self._target.embed(worn.reshape(self._flat.shape)) * self._clean).sum(-1).mean())

    def picture(self, state: state.GanState) -> np.ndarray:
        """Originals above their protected versions, one mask per person: [H, W, 3] uint8."""
        worn = self._worn(state.generator, per_image=False)
        rows = (self.test[:SAMPLE_PERSONS, 0], worn[:SAMPLE_PERSONS, 0])
        return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def build_generator(config: GeneratorConfig, *, axis_name: str | None, dtype: str = "float32") -> Generator:
    """The generator that the settings ask for."""
    remat = config.remat == "blocks"
    return Generator(width=config.generator_width, dtype=jnp.dtype(dtype), axis_name=axis_name, remat=remat)


def _gan(config: ImageConfig, batch: int, parts: Parts) -> steps.Gan:
    return steps.Gan(
        build_generator(config, axis_name=steps.DEVICES, dtype=config.dtype),
        Discriminator(width=config.discriminator_width, dtype=jnp.dtype(config.dtype), axis_name=steps.DEVICES),
        optax.adam(config.learning_rate, b1=config.beta1, b2=config.beta2),
        config.lambda_norm,
        config.lambda_adversarial,
        images.mask_norm_at(config.image_size, config.norm_floor),
        batch,
        parts,
    )


def _fresh(gan: steps.Gan, config: ImageConfig, key: jax.Array) -> state.GanState:
    """Networks of new weights."""
    make = jax.jit(lambda key: state.init_gan(gan.generator, gan.discriminator, config.image_size, gan.optimiser, key))
    return make(key)


def _flops(gan: steps.Gan, surrogate: Recognizer, size: int) -> float:
    """Of a step of either stage."""
    generator, discriminator = (
        flops.forward(one.clone(axis_name=None), size) for one in (gan.generator, gan.discriminator)
    )
    return flops.gan_step(generator, discriminator, flops.forward(surrogate.module, size), gan.global_batch)


def load_surrogate(config: GeneratorConfig) -> Recognizer:
    """The recogniser that a generator learns against."""
    found = inputs.load_recognizer(config.surrogate, "--surrogate", dtype=config.dtype).recognizer
    if config.remat == "none":
        return found
    if not hasattr(found.module, "remat"):
        _log.warning("--remat blocks leaves %s as it is: a graph of MXNet has no blocks", config.surrogate)
        return found
    return found.replace(module=found.module.clone(remat=True))  # type: ignore[attr-defined]


def choose_images(config: GeneratorConfig, faces: FaceSet, split: Split) -> np.ndarray:
    """At most `config.images` random images of the generator's persons, their sorted indices [n].

    Raises UserError when they do not fill a batch.
    """
    chosen, _ = splits.images_with_labels(faces, split.generator)
    kept = order.permutation(config.seed, SHUFFLE_KEY, len(chosen))[: config.images]
    if len(kept) < config.batch:
        raise UserError(f"--batch {config.batch} is more than the {len(kept)} training images; lower it.")
    return chosen[np.sort(kept)]


def image_feed(
    config: GeneratorConfig, originals: Images, surrogate: Recognizer, devices: list[jax.Device], total: int
) -> Feed:
    """Random batches of images [n, H, W, C] with the surrogate's embeddings of them, which are computed here, once."""
    embeddings = FlaxTarget("surrogate", surrogate.module, surrogate.variables).embed(originals)
    rows = {"faces": originals, "embeddings": embeddings}
    return make_feed(
        config, rows, partial(order.image_batches, config.seed, len(originals), config.batch), devices, total
    )


def image_gather(feed: Feed) -> Callable[[Resident, dict[str, jax.Array], jax.Array], steps.ImageBatch]:
    """In the graph: (resident, item, step number) -> the batch of one step."""

    def gather(resident: Resident, item: dict[str, jax.Array], number: jax.Array) -> steps.ImageBatch:
        rows = feed.take(resident.rows, item)
        return steps.ImageBatch(
            images.to_unit(rows["faces"]),
            rows["embeddings"],
            item["position"],
            jax.random.fold_in(resident.key, number),
        )

    return gather


def build_image(config: ImageConfig, faces: FaceSet, split: Split) -> Job:
    """Stage I on at most `config.images` random images of the generator's persons."""
    chosen = choose_images(config, faces, split)
    devices = placement.pick_devices(config.devices, config.batch, "--batch")
    surrogate = load_surrogate(config)
    gan = _gan(config, config.batch, parallel.parts_of(config.accumulate, config.batch, devices, "--batch"))
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    initial = _fresh(gan, config, init_key)
    total = config.steps or max(1, round(config.epochs * len(chosen) / config.batch))
    feed = image_feed(config, Chosen(faces.images, chosen), surrogate, devices, total)
    resident = make_resident(config, feed, surrogate, step_key, devices)

    def bind(resident: Resident) -> Any:
        return steps.image_step(gan, lambda faces: embed(surrogate.module, resident.surrogate, faces))

    scanned = parallel.scan_steps(
        bind, image_gather(feed), unroll=parallel.wants_unrolling(devices), on_nan=config.on_nan
    )
    run = parallel.parallelise(scanned, devices, config.parallel, resident_specs=Resident(feed.specs, P(), P()))

    def advance(state: PyTree, first: int, count: int) -> tuple[PyTree, dict[str, jax.Array]]:
        return run(state, resident, feed.batches(first, count))

    validation = Validation(config, faces, split, surrogate)
    return Job(
        steps=total,
        images_per_step=config.batch,
        state=placement.replicate(initial, devices),
        advance=advance,
        validate=validation,
        rank=lambda metrics: -metrics["validation_image"],
        picture=validation.picture,
        columns=COLUMNS,
        feed=feed,
        flops=_flops(gan, surrogate, config.image_size),
        devices=devices,
    )


def build_person(config: PersonConfig, faces: FaceSet, split: Split) -> Job:
    """Stage II on `split.generator_images`, from stage I's networks or fresh ones; persons in a fixed order, as
    published.
    """
    persons, per_person = split.generator_images.shape
    if persons < config.persons:
        raise UserError(f"--persons {config.persons} is more than the {persons} of --split.generator; lower it.")
    if config.subspace == "convex-hull":
        hull_solver.effective_bounds(per_person, config.lower, config.upper)
        if config.projection_solver == "kernel":
            hull_kernel.require_usable(per_person)
    devices = placement.pick_devices(config.devices, config.persons, "--persons")
    surrogate = load_surrogate(config)
    parts = parallel.parts_of(config.accumulate, config.persons, devices, "--persons")
    gan = _gan(config, config.persons * per_person, parts)
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    if config.generator == NO_STAGE_ONE:
        initial = _fresh(gan, config, init_key)
    else:
        loaded = inputs.load_gan(inputs.read_run_of("image", config.generator, "--generator"))
        initial = state.start_gan(loaded["generator"], loaded["discriminator"], gan.optimiser)

    flat = Chosen(faces.images, split.generator_images.reshape(-1))
    flat_embeddings = FlaxTarget("surrogate", surrogate.module, surrogate.variables).embed(flat)
    embeddings = jnp.asarray(flat_embeddings).reshape(persons, per_person, -1)
    rows = {
        "faces": Chosen(faces.images, split.generator_images),
        "embeddings": embeddings,
        "spaces": jax.jit(subspace.fit)(embeddings),
    }
    epoch = persons / config.persons
    total = config.steps or max(1, round(config.epochs * epoch))
    feed = make_feed(
        config,
        rows,
        partial(order.image_batches, config.seed, persons, config.persons, shuffle=False),
        devices,
        total,
    )
    resident = make_resident(config, feed, surrogate, step_key, devices)

    def bind(resident: Resident) -> Any:
        return steps.person_step(
            gan,
            lambda faces: embed(surrogate.module, resident.surrogate, faces),
            config,
            round(config.warmup_epochs * epoch),
        )

    def gather(resident: Resident, item: dict[str, jax.Array], number: jax.Array) -> steps.PersonBatch:
        rows = feed.take(resident.rows, item)
        return steps.PersonBatch(
            images.to_unit(rows["faces"]),
            rows["embeddings"],
            rows["spaces"],
            (item["position"][:, None] * per_person + jnp.arange(per_person)).reshape(-1),
            jax.random.fold_in(resident.key, number),
        )

    scanned = parallel.scan_steps(bind, gather, unroll=parallel.wants_unrolling(devices), on_nan=config.on_nan)
    run = parallel.parallelise(scanned, devices, config.parallel, resident_specs=Resident(feed.specs, P(), P()))

    def advance(state: PyTree, first: int, count: int) -> tuple[PyTree, dict[str, jax.Array]]:
        return run(state, resident, feed.batches(first, count))

    validation = Validation(config, faces, split, surrogate)
    return Job(
        steps=total,
        images_per_step=config.persons * per_person,
        state=placement.replicate(initial, devices),
        advance=advance,
        validate=validation,
        rank=lambda metrics: -metrics[f"validation_{config.masks}"],
        picture=validation.picture,
        columns=COLUMNS,
        feed=feed,
        flops=_flops(gan, surrogate, config.image_size),
        devices=devices,
    )
