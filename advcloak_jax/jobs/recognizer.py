"""`train.py recognizer`: a face recogniser from identities and their images."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from advcloak_jax import images
from advcloak_jax.config import RecognizerConfig
from advcloak_jax.data import order, splits
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.rows import Chosen
from advcloak_jax.data.splits import Split
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import verification
from advcloak_jax.evaluation.targets import FlaxTarget
from advcloak_jax.jobs.inputs import build_recognizer
from advcloak_jax.recognizers import margins
from advcloak_jax.training import class_parallel, flops, parallel, placement, state, steps
from advcloak_jax.training.feed_choice import make_feed
from advcloak_jax.training.loop import Job
from advcloak_jax.training.recognizer_step import recognizer_step

PyTree = Any
VALIDATION_PAIRS = 5000


class Resident(NamedTuple):
    """On the devices: the feed's rows (faces [n, H, W, C] uint8, labels [n] int32 in 0..K-1), the root key."""

    rows: PyTree
    key: PyTree


def learning_rate(config: RecognizerConfig, total: int) -> optax.Schedule:
    """Linear warm-up, then steps down at 50, 70 and 90 % of training, or a cosine to zero."""
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.learning_rate, max(total - config.warmup_steps, 1))
    else:
        drops = {int(share * total) - config.warmup_steps: 0.1 for share in (0.5, 0.7, 0.9)}
        main = optax.piecewise_constant_schedule(config.learning_rate, drops)
    if not config.warmup_steps:
        return main
    return optax.join_schedules(
        [optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps), main], [config.warmup_steps]
    )


def optimiser(config: RecognizerConfig, total: int) -> optax.GradientTransformation:
    """SGD with momentum; weight decay on matrices and kernels only."""

    def decayed(params: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.sgd(learning_rate(config, total), momentum=config.momentum),
    )


def margin(config: RecognizerConfig) -> margins.Margin:
    """The loss that the settings ask for, with its published margin where they name none."""
    published = margins.PUBLISHED_MARGIN[config.margin]
    return margins.Margin(
        config.margin,
        scale=config.margin_scale,
        value=published if config.margin_value is None else config.margin_value,
        adaface_h=config.adaface_h,
        adaface_rate=config.adaface_rate,
        sface_k=config.sface_k,
        sface_a=config.sface_a,
        sface_b=config.sface_b,
    )


def index_batches(config: RecognizerConfig, labels: np.ndarray) -> Callable[[int, int], np.ndarray]:
    """(first step, steps) -> the images of those steps, [steps, batch] int32 among those with `labels` [n]."""
    if config.sampling == "balanced":
        return partial(order.Balanced(config.seed, labels).batches, config.batch)
    return partial(order.image_batches, config.seed, len(labels), config.batch)


def place(initial: Callable[[jax.Array], PyTree], key: jax.Array, devices: list[jax.Device]) -> tuple[PyTree, PyTree]:
    """State made by `initial(key)` with its classifier spread over the devices, and the specs of that placement."""
    specs = class_parallel.specs(jax.eval_shape(initial, key))
    # On several processes a compiled function takes numbers from the host, but no keys.
    made = jax.jit(
        lambda data: initial(jax.random.wrap_key_data(data)), out_shardings=placement.shardings(specs, devices)
    )
    return made(np.asarray(jax.random.key_data(key))), specs


def build(config: RecognizerConfig, faces: FaceSet, split: Split) -> Job:
    """The job of training a recogniser on its part of the split.

    Raises UserError when the part or the validation holds fewer than two persons, or the part fewer images than a
    batch, or the devices cannot share what they should.
    """
    persons = split.surrogate if config.part == "surrogate" else split.target
    if len(persons) < 2:
        raise UserError(f"--split.{config.part} {len(persons)} is too few; a recogniser needs at least 2 persons.")
    if len(split.validation) < 2:
        raise UserError(f"--split.validation {len(split.validation)} is too few; recognisers are tried on 2 or more.")
    chosen, labels = splits.images_with_labels(faces, persons)
    if len(chosen) < config.batch:
        raise UserError(f"--batch {config.batch} is more than the {len(chosen)} training images; lower it.")
    total = config.steps or max(1, round(config.epochs * len(chosen) / config.batch))

    devices = placement.pick_devices(config.devices, config.batch, "--batch")
    parts = parallel.parts_of(config.accumulate, config.batch, devices, "--batch")
    module = build_recognizer(config, dtype=config.dtype, axis_name=steps.DEVICES)
    transformation = optimiser(config, total)
    root = jax.random.key(config.seed)
    init_key, step_key = jax.random.split(root)
    sharded = config.classifier == "sharded"
    loss = margin(config)

    def initial(key: jax.Array) -> state.RecognizerState:
        columns = class_parallel.padded(len(persons)) if sharded else None
        norms = margins.first_norms(loss)
        return state.init_recognizer(
            module, len(persons), config.image_size, transformation, key, columns=columns, norms=norms
        )

    specs = None
    if sharded:
        class_parallel.require_divisor(len(devices))
        start, specs = place(initial, init_key, devices)
    else:
        start = placement.replicate(jax.jit(initial)(init_key), devices)
    rows = {"faces": Chosen(faces.images, chosen), "labels": labels}
    feed = make_feed(config, rows, index_batches(config, labels), devices, total)
    resident = Resident(feed.rows, placement.reside(step_key, devices, config.parallel))
    classes = len(persons) if sharded else None
    step = recognizer_step(module, transformation, loss, sharded_classes=classes, parts=parts)

    def gather(resident: Resident, item: dict[str, jax.Array], number: jax.Array) -> steps.RecognizerBatch:
        rows = feed.take(resident.rows, item)
        return steps.RecognizerBatch(
            images.to_unit(rows["faces"]),
            rows["labels"],
            item["position"],
            jax.random.fold_in(resident.key, number),
        )

    scanned = parallel.scan_steps(
        lambda _: step, gather, unroll=parallel.wants_unrolling(devices), on_nan=config.on_nan
    )
    run = parallel.parallelise(scanned, devices, config.parallel, specs, Resident(feed.specs, P()))

    def advance(state: PyTree, first: int, count: int) -> tuple[PyTree, dict[str, jax.Array]]:
        return run(state, resident, feed.batches(first, count))

    held_out = np.flatnonzero(np.isin(faces.identity, split.validation))
    held_out_module = build_recognizer(config, dtype=config.dtype, axis_name=None)

    def validate(state: state.RecognizerState) -> dict[str, float]:
        variables = {"params": state.params["backbone"], "batch_stats": state.batch_stats}
        embeddings = FlaxTarget("validation", held_out_module, variables).embed(faces.images[held_out])
        identity = faces.identity[held_out]
        pairs = verification.pairs(identity, VALIDATION_PAIRS, VALIDATION_PAIRS, config.seed)
        scores = verification.cosine(embeddings, pairs)
        return {
            "validation_auc": verification.auc(scores, pairs.same),
            "validation_accuracy": verification.best_accuracy(scores, pairs.same)[0],
        }

    return Job(
        steps=total,
        images_per_step=config.batch,
        state=start,
        advance=advance,
        validate=validate,
        rank=lambda validation: validation["validation_auc"],
        picture=None,
        columns=("loss", "accuracy", "validation_auc", "validation_accuracy"),
        flops=flops.recognizer_step(
            flops.forward(held_out_module, config.image_size), config.embedding_size, len(persons), config.batch
        ),
        devices=devices,
        feed=feed,
    )
