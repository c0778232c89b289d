"""The training step of recognisers, pure: step(state, batch) -> (state, metrics), for one device of DEVICES."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn

from advcloak_jax.recognizers import margins
from advcloak_jax.training import class_parallel
from advcloak_jax.training.accumulate import WHOLE, Parts, mean_over_parts
from advcloak_jax.training.state import AdaFaceState, RecognizerState
from advcloak_jax.training.steps import DEVICES, Metrics, RecognizerBatch, mean_over_devices, mirror_half

PyTree = Any


def recognizer_step(
    backbone: nn.Module,
    optimiser: optax.GradientTransformation,
    margin: margins.Margin,
    *,
    sharded_classes: int | None = None,
    parts: Parts = WHOLE,
) -> Callable[[RecognizerState, RecognizerBatch], tuple[RecognizerState, Metrics]]:
    """Step of classification over identities by `margin`, with horizontal flips.

    sharded_classes: the number of classes, when the classifier is spread over the devices (class_parallel.py); None
    when each device has all of it. The results are the same. parts: see accumulate.py.
    """

    def loss(
        params: PyTree,
        batch_stats: PyTree,
        norms: margins.Norms | None,
        batch: RecognizerBatch,
        dropout_key: jax.Array,
    ) -> tuple[jax.Array, tuple[PyTree, margins.Outcome]]:
        faces = mirror_half(batch.faces, batch.key, batch.positions)
        features, updates = backbone.apply(
            {"params": params["backbone"], "batch_stats": batch_stats},
            faces,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        classifier = params["classifier"]
        if sharded_classes is None:
            all_here = margins.Columns(0, classifier["weights"].shape[1], None)
            outcome = margins.loss(margin, features, classifier, batch.labels, norms, all_here, DEVICES)
        else:
            features, labels = class_parallel.gather(features, batch.labels)
            columns = class_parallel.columns(classifier["weights"], sharded_classes)
            outcome = margins.loss(margin, features, classifier, labels, norms, columns, None)
        # A network without batch norm has no statistics.
        return outcome.loss, (updates.get("batch_stats", batch_stats), outcome)

    def step(state: RecognizerState, batch: RecognizerBatch) -> tuple[RecognizerState, Metrics]:
        flip_key, dropout_key = jax.random.split(batch.key)

        def part_of(carry: PyTree, part: PyTree, number: jax.Array) -> tuple[PyTree, PyTree]:
            faces, labels, positions = part
            key = dropout_key if parts.count == 1 else jax.random.fold_in(dropout_key, number)
            gradients, (batch_stats, outcome) = jax.grad(loss, has_aux=True)(
                state.params, *carry, RecognizerBatch(faces, labels, positions, flip_key), key
            )
            return (batch_stats, outcome.norms), (gradients, {"loss": outcome.loss, "accuracy": outcome.accuracy})

        norms = state.norms if isinstance(state, AdaFaceState) else None
        share = (batch.faces, batch.labels, batch.positions)
        (batch_stats, norms), (gradients, told) = mean_over_parts(part_of, (state.batch_stats, norms), share, parts)
        if sharded_classes is None:
            gradients = mean_over_devices(gradients)
        else:
            gradients = class_parallel.mean_gradients(gradients)
        updates, opt_state = optimiser.update(gradients, state.optimiser, state.params)
        new = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            optimiser=opt_state,
        )
        if isinstance(new, AdaFaceState):
            new = new.replace(norms=norms)
        # The cosine without its margin would do better; this is the accuracy of the task that is trained.
        return new, mean_over_devices(told)

    return step
