"""Gradient accumulation: the whole batch's gradient where nothing is taken over the batch, and what differs else."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_training as small

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.margins import Margin
from advcloak_jax.training import parallel, state, steps
from advcloak_jax.training.accumulate import WHOLE, Parts, mean_over_parts
from advcloak_jax.training.recognizer_step import recognizer_step
from advcloak_jax.training.universal_step import Universal, universal_step

LOOPED, WRITTEN_OUT = Parts(2), Parts(2, unroll=True)


class Counter(nn.Module):
    """In place of a batch norm: changes nothing, and counts the batches that it saw in training."""

    axis_name: str | None = None
    apart: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[..., C] -> [..., C]."""
        if train or self.is_initializing():
            seen = self.variable("batch_stats", "seen", jnp.zeros, (), jnp.float32)
            seen.value = seen.value + train * math.prod(x.shape[: self.apart])
        return x


@pytest.fixture(scope="module")
def data() -> small.Data:
    return small.make_data()


@pytest.fixture
def without_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "BatchNorm", Counter)


def result(stage: str, data: small.Data, parts: Parts, *, devices: int = 1) -> tuple[Any, dict[str, np.ndarray]]:
    """State and metrics after a step whose optimiser state is its gradient."""
    optimiser = small.recording()
    gather: Callable[..., Any]
    if stage == "recognizer":
        module = small.SmallRecognizer(steps.DEVICES)
        step = recognizer_step(module, optimiser, Margin("cosface", 16.0, 0.2), parts=parts)
        initial: Any = state.init_recognizer(module, small.PERSONS, small.SIZE, optimiser, jax.random.key(2))
        bind, gather, items = lambda _: step, small.recognizer_batch, small.BATCH
    elif stage == "universal":
        networks = Universal(small.SmallGenerator(), optimiser, 40.0, parts)
        noise = jax.random.uniform(jax.random.key(4), (1, small.SIZE, small.SIZE, 3))
        generator = networks.generator.init(jax.random.key(1), noise, train=False)
        initial = state.UniversalState(jnp.int32(0), generator, optimiser.init(generator["params"]))
        bind = lambda data: universal_step(networks, small.embedder(data), noise)  # noqa: E731
        gather, items = small.image_batch, small.BATCH
    else:
        gan = small.gan(optimiser)._replace(parts=parts)
        initial = small.gan_state(gan)
        if stage == "image":
            bind = lambda data: steps.image_step(gan, small.embedder(data))  # noqa: E731
            gather, items = small.image_batch, small.BATCH
        else:
            config = small.person_config("convex-hull")
            bind = lambda data: steps.person_step(gan, small.embedder(data), config, 0)  # noqa: E731
            gather, items = small.person_batch, small.PERSONS
    return small.run_steps(bind, gather, initial, data, items=items, count=1, devices=devices, kind="pmap")


def gradients(new: Any) -> list[Any]:
    if isinstance(new, state.GanState):
        return [new.generator_optimiser, new.discriminator_optimiser]
    return [new.optimiser]


@pytest.mark.parametrize(
    "stage",
    ["recognizer", "person", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("universal", "image"))],
)
@pytest.mark.usefixtures("without_norms")
def test_the_gradient_is_that_of_the_whole_batch(data: small.Data, stage: str) -> None:
    whole, told = result(stage, data, WHOLE)
    for parts, devices in ((LOOPED, 1), (WRITTEN_OUT, 2)):
        cut, also_told = result(stage, data, parts, devices=devices)
        for here, there in zip(gradients(cut), gradients(whole), strict=True):
            assert optax.tree.norm(there) > 1e-3
            assert small.relative(here, there) < 2e-5
        for name, value in told.items():
            np.testing.assert_allclose(also_told[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("without_norms")
def test_each_network_sees_every_part_once_a_pass(data: small.Data) -> None:
    whole, cut = (result("image", data, parts)[0] for parts in (WHOLE, LOOPED))
    for new, parts in ((whole, 1), (cut, 2)):
        assert jax.tree.leaves(new.generator["batch_stats"]) == [parts]
        assert jax.tree.leaves(new.discriminator["batch_stats"]) == [3 * parts]  # originals, protected; protected anew


def test_with_batch_norm_every_part_has_its_own_statistics(data: small.Data) -> None:
    """The running ones are those of the network run on part after part; so is the gradient their mean."""
    module = small.SmallRecognizer(None)
    initial = module.init(jax.random.key(0), jnp.zeros((1, small.SIZE, small.SIZE, 3)), train=False)

    def compute(stats: Any, faces: jax.Array, _: jax.Array) -> tuple[Any, Any]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": stats}
            features, updates = module.apply(variables, faces, train=True, mutable=["batch_stats"])
            return jnp.square(features).mean(), updates["batch_stats"]

        gradients, stats = jax.grad(loss, has_aux=True)(initial["params"])
        return stats, gradients

    faces = small.flat(data.faces)
    halves = jnp.split(faces, 2)
    middle, first = jax.jit(compute)(initial["batch_stats"], halves[0], jnp.int32(0))
    last, second = jax.jit(compute)(middle, halves[1], jnp.int32(1))
    for parts in (LOOPED, WRITTEN_OUT):
        stats, mean = jax.jit(
            lambda faces, parts=parts: mean_over_parts(compute, initial["batch_stats"], faces, parts)
        )(faces)
        assert small.relative(stats, last) < 1e-6
        assert small.relative(mean, jax.tree.map(lambda a, b: (a + b) / 2, first, second)) < 1e-6
    whole = jax.jit(lambda faces: mean_over_parts(compute, initial["batch_stats"], faces, WHOLE))(faces)[1]
    assert small.relative(mean, whole) > 1e-4


def test_a_share_that_cannot_be_cut_is_refused() -> None:
    devices = jax.local_devices()[:2]
    assert parallel.parts_of(4, 32, devices, "--batch") == Parts(4, unroll=True)
    with pytest.raises(
        UserError, match=r"--accumulate 3 cannot cut each device's 16 of --batch 32; use a divisor of 16"
    ):
        parallel.parts_of(3, 32, devices, "--batch")
