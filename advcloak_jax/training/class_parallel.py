"""The classifier spread over the devices: each holds some of the classes, for all faces of the batch.

Memory of the class weights, their gradient, momentum and logits falls as one over the devices, as in InsightFace's
Partial FC without sampling; what travels instead are the features, and a few numbers per face.
"""

from typing import Any

import jax
from jax import lax
from jax.sharding import PartitionSpec as P

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.margins import Columns
from advcloak_jax.training.steps import DEVICES

PyTree = Any

MULTIPLE = 384
"""Classes are padded to a multiple of this on any number of devices, so that a checkpoint of one fits all its divisors:
1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192 and 384 devices."""


def padded(classes: int) -> int:
    """Columns of a spread classifier."""
    return -(-classes // MULTIPLE) * MULTIPLE


def require_divisor(devices: int) -> None:
    """Raise UserError when a classifier cannot be spread evenly over so many devices."""
    if MULTIPLE % devices:
        raise UserError(
            f"--classifier sharded cannot be shared by {devices} devices; set --devices to a divisor of {MULTIPLE}."
        )


def specs(state: PyTree) -> PyTree:
    """How each array of a recogniser's state lies on the devices: class weights and what the optimiser keeps of them
    shared along their last axis, everything else on each device."""

    def spec(path: Any, leaf: Any) -> P:
        return P(*[None] * (leaf.ndim - 1), DEVICES) if _is_classifier(path) and leaf.ndim else P()

    return jax.tree_util.tree_map_with_path(spec, state)


def gather(features: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features [b, d] and labels [b] of every device: [B, d] and [B]. Backwards, each device gets the sum of what all
    devices' classes want of its features."""
    return lax.all_gather(features, DEVICES, tiled=True), lax.all_gather(labels, DEVICES, tiled=True)


def columns(weights: jax.Array, classes: int) -> Columns:
    """The classes, of so many, that this device's class weights [d, k] are for."""
    return Columns(lax.axis_index(DEVICES) * weights.shape[1], classes, DEVICES)


def mean_gradients(gradients: PyTree) -> PyTree:
    """Gradients of the mean over devices of their losses, from what each device computed.

    A device's own backward pass gives the gradient of the SUM of all devices' losses by its own copy of a parameter.
    So what every device has a copy of is averaged; a class on one device only is divided by their number.
    """
    devices = lax.axis_size(DEVICES)

    def mean(path: Any, gradient: jax.Array) -> jax.Array:
        return gradient / devices if _is_classifier(path) else lax.pmean(gradient, DEVICES)

    return jax.tree_util.tree_map_with_path(mean, gradients)


def _is_classifier(path: Any) -> bool:
    """Whether an array of a state or of its parameters belongs to the classifier."""
    return any(getattr(key, "key", None) == "classifier" for key in path)
