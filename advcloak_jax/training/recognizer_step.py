"""The training step of recognisers, pure: step(state, batch) -> (state, metrics), for one device of DEVICES."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn
from jax import lax

from advcloak_jax.recognizers import margins
from advcloak_jax.training import class_parallel
from advcloak_jax.training.state import AdaFaceState, RecognizerState
from advcloak_jax.training.steps import DEVICES, Metrics, RecognizerBatch, mirror_half

PyTree = Any


def recognizer_step(
    backbone: nn.Module,
    optimiser: optax.GradientTransformation,
    margin: margins.Margin,
    *,
    sharded_classes: int | None = None,
) -> Callable[[RecognizerState, RecognizerBatch], tuple[RecognizerState, Metrics]]:
    """Step of classification over identities by `margin`, with horizontal flips.

    sharded_classes: the number of classes, when the classifier is spread over the devices (class_parallel.py); None
    when each device has all of it. The results are the same.
    Dropout draws per device: runs on different device counts agree in law, not bit for bit, where dropout is used.
    """

    def loss(
        params: PyTree, batch_stats: PyTree, norms: margins.Norms | None, batch: RecognizerBatch
    ) -> tuple[jax.Array, tuple[PyTree, margins.Outcome]]:
        flip_key, dropout_key = jax.random.split(batch.key)
        faces = mirror_half(batch.faces, flip_key, batch.positions)
        features, updates = backbone.apply(
            {"params": params["backbone"], "batch_stats": batch_stats},
            faces,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.fold_in(dropout_key, lax.axis_index(DEVICES))},
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
        norms = state.norms if isinstance(state, AdaFaceState) else None
        gradients, (batch_stats, outcome) = jax.grad(loss, has_aux=True)(state.params, state.batch_stats, norms, batch)
        if sharded_classes is None:
            gradients = lax.pmean(gradients, DEVICES)
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
            new = new.replace(norms=outcome.norms)
        # The cosine without its margin would do better; this is the accuracy of the task that is trained.
        return new, lax.pmean({"loss": outcome.loss, "accuracy": outcome.accuracy}, DEVICES)

    return step
