"""The training step of GAP's generator of one mask for everybody, pure as those in `steps`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from flax import linen as nn

from advcloak_jax import images, losses
from advcloak_jax.networks.universal_mask import universal_mask
from advcloak_jax.training.accumulate import WHOLE, Parts, mean_over_parts
from advcloak_jax.training.state import UniversalState
from advcloak_jax.training.steps import Embed, ImageBatch, Metrics, mean_over_devices, update

PyTree = Any


class Universal(NamedTuple):
    """The generator of one mask for everybody, its optimiser, and the largest change of a pixel, of 255."""

    generator: nn.Module
    optimiser: optax.GradientTransformation
    epsilon: float
    parts: Parts = WHOLE


def universal_step(
    universal: Universal, embed: Embed, noise: jax.Array
) -> Callable[[UniversalState, ImageBatch], tuple[UniversalState, Metrics]]:
    """GAP: the mask that the generator makes of `noise` [1, H, W, 3] is put on every image of the batch (Eq. 14).

    Every device makes the same mask of the same noise, so that there are no statistics to share.
    """

    def step(state: UniversalState, batch: ImageBatch) -> tuple[UniversalState, Metrics]:
        params = state.generator["params"]

        def make(params: PyTree) -> tuple[jax.Array, PyTree]:
            variables = {"params": params, "batch_stats": state.generator["batch_stats"]}
            return universal_mask(universal.generator, variables, noise, universal.epsilon)

        mask, pull_back, stats = jax.vjp(make, params, has_aux=True)

        def part_of(_: None, part: PyTree, __: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
            faces, embeddings = part

            def loss(mask: jax.Array) -> jax.Array:
                return losses.cosine_loss(embed(images.apply_mask(faces, mask)), embeddings)

            return None, jax.value_and_grad(loss)(mask)

        _, (value, by_mask) = mean_over_parts(part_of, None, (batch.faces, batch.embeddings), universal.parts)
        generator, optimiser = update(universal.optimiser, pull_back(by_mask)[0], state.optimiser, params)
        new = UniversalState(state.step + 1, {"params": generator, "batch_stats": stats}, optimiser)
        return new, mean_over_devices({"adversarial": value})

    return step
