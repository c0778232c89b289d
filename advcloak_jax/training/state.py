"""What a training job carries from step to step: parameters, batch statistics and optimiser states, all float32."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from advcloak_jax.recognizers import margins

PyTree = Any


class RecognizerState(struct.PyTreeNode):
    """A recogniser in training.

    step: int32 scalar, updates made so far. params: {"backbone": ..., "classifier": {"weights": [d, K], "bias": [K]}}.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    optimiser: optax.OptState


class AdaFaceState(RecognizerState):
    """A recogniser in training by AdaFace, which also follows the norms of the features."""

    norms: margins.Norms


class GanState(struct.PyTreeNode):
    """A generator and a discriminator in training; each is a Flax variables dict (params, batch_stats)."""

    step: jax.Array
    generator: PyTree
    discriminator: PyTree
    generator_optimiser: optax.OptState
    discriminator_optimiser: optax.OptState


class UniversalState(struct.PyTreeNode):
    """The generator of one universal mask in training (a Flax variables dict)."""

    step: jax.Array
    generator: PyTree
    optimiser: optax.OptState


def init_recognizer(
    backbone: nn.Module,
    classes: int,
    image_size: int,
    optimiser: optax.GradientTransformation,
    key: jax.Array,
    *,
    columns: int | None = None,
    norms: margins.Norms | None = None,
) -> RecognizerState:
    """Fresh state; class weights are normal with standard deviation 0.01, as in the published recipes.

    columns: of the classifier, when more than `classes`; those beyond are 0, and stay so. norms: AdaFace's first ones.
    """
    backbone_key, classifier_key = jax.random.split(key)
    images = jnp.zeros((2, image_size, image_size, 3), jnp.float32)
    variables = backbone.init(backbone_key, images, train=False)
    embedding = jax.eval_shape(lambda v: backbone.apply(v, images, train=False), variables)
    weights = 0.01 * jax.random.normal(classifier_key, (embedding.shape[-1], classes), jnp.float32)
    padding = (columns or classes) - classes
    params = {
        "backbone": variables["params"],
        "classifier": {
            "weights": jnp.pad(weights, ((0, 0), (0, padding))),
            "bias": jnp.zeros((classes + padding,), jnp.float32),
        },
    }
    fields = (jnp.int32(0), params, variables.get("batch_stats", {}), optimiser.init(params))
    return RecognizerState(*fields) if norms is None else AdaFaceState(*fields, norms)


def init_gan(
    generator: nn.Module,
    discriminator: nn.Module,
    image_size: int,
    optimiser: optax.GradientTransformation,
    key: jax.Array,
) -> GanState:
    """Fresh state of stage I."""
    generator_key, discriminator_key = jax.random.split(key)
    images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    return start_gan(
        generator.init(generator_key, images, train=False),
        discriminator.init(discriminator_key, images, train=False),
        optimiser,
    )


def start_gan(generator: PyTree, discriminator: PyTree, optimiser: optax.GradientTransformation) -> GanState:
    """State at step 0 from given variables: stage II starts from stage I's networks with fresh optimisers."""
    return GanState(
        jnp.int32(0),
        generator,
        discriminator,
        optimiser.init(generator["params"]),
        optimiser.init(discriminator["params"]),
    )
