"""GAP: the step of one mask for everybody against its definition, on several devices, and the cloak made from it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_training as small

from advcloak_jax.cloaks.universal import universal
from advcloak_jax.networks.universal_mask import fixed_noise, universal_mask
from advcloak_jax.recognizers.recognizer import embed
from advcloak_jax.training.state import UniversalState
from advcloak_jax.training.universal_step import Universal, universal_step

EPSILON, RATE = 10.0, 0.05
GENERATOR = small.SmallGenerator()
NOISE = fixed_noise(jax.random.key(2), small.SIZE)


@pytest.fixture(scope="module")
def data() -> small.Data:
    return small.make_data()


@pytest.fixture(scope="module")
def initial() -> UniversalState:
    variables = GENERATOR.init(jax.random.key(1), NOISE, train=False)
    return UniversalState(jnp.int32(0), variables, optax.sgd(RATE).init(variables["params"]))


def run(data: small.Data, initial: UniversalState, devices: int, kind: str) -> Any:
    def bind(data: small.Data) -> Any:
        return universal_step(Universal(GENERATOR, optax.sgd(RATE), EPSILON), small.embedder(data), NOISE)

    return small.run_steps(
        bind, small.image_batch, initial, data, items=small.BATCH, count=2, devices=devices, kind=kind
    )


def test_a_step_descends_the_mean_cosine_of_all_images_under_one_mask(data: small.Data, initial: Any) -> None:
    faces, originals = small.flat(data.faces), small.flat(data.embeddings)

    def loss(params: Any) -> jax.Array:
        variables = {"params": params, "batch_stats": initial.generator["batch_stats"]}
        raw, _ = GENERATOR.apply(variables, NOISE, train=True, mutable=["batch_stats"])
        mask = raw[0] * EPSILON / 255 / jnp.abs(raw[0]).max()
        found = embed(small.SmallRecognizer(), data.surrogate, jnp.clip(faces + mask, 0, 1))
        return (found * originals).sum(-1).mean()

    params = initial.generator["params"]
    for _ in range(2):
        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
        params = jax.tree.map(lambda p, g: p - RATE * g, params, gradient)
    state, metrics = run(data, initial, 1, "pmap")
    assert small.relative(state.generator["params"], params) < 1e-6
    assert metrics["adversarial"][1] == pytest.approx(float(value), rel=1e-5)
    assert int(state.step) == 2


@pytest.mark.parametrize(("devices", "kind"), [(2, "pmap"), (2, "shard_map"), (1, "shard_map")])
def test_devices_and_ways_agree(data: small.Data, initial: Any, devices: int, kind: str) -> None:
    state, metrics = run(data, initial, devices, kind)
    expected, values = run(data, initial, 1, "pmap")
    assert small.relative(state.generator, expected.generator) < 1e-6
    np.testing.assert_allclose(metrics["adversarial"], values["adversarial"], rtol=1e-5)


def test_the_cloak_is_the_mask_that_was_trained(initial: Any) -> None:
    cloak = universal("GAP", GENERATOR, initial.generator, NOISE, EPSILON)
    mask = cloak.make_masks(jnp.zeros((3, 2, small.SIZE, small.SIZE, 3)), jax.random.key(0))
    assert (cloak.kind, mask.shape) == ("universal", (small.SIZE, small.SIZE, 3))
    assert float(jnp.abs(mask).max()) == pytest.approx(EPSILON / 255, rel=1e-5)
    # Statistics that training has left must not matter.
    moved = {**initial.generator, "batch_stats": jax.tree.map(lambda x: x + 3, initial.generator["batch_stats"])}
    np.testing.assert_allclose(universal_mask(GENERATOR, moved, NOISE, EPSILON)[0], mask, rtol=1e-5, atol=1e-7)


def test_a_weak_mask_is_not_made_stronger(initial: Any) -> None:
    raw = GENERATOR.apply(initial.generator, NOISE, train=True, mutable=["batch_stats"])[0][0]
    mask, _ = universal_mask(GENERATOR, initial.generator, NOISE, 300.0)
    np.testing.assert_allclose(mask, raw, rtol=1e-6)
