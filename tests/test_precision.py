"""bfloat16 is for the networks' computations alone: everything that is kept, compared or projected is float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_training as small
from jaxpr_walk import equations

from advcloak_jax import losses, subspace
from advcloak_jax.networks.discriminator import Discriminator
from advcloak_jax.networks.generator import Generator
from advcloak_jax.recognizers import margins, recognizer
from advcloak_jax.recognizers.iresnet import IResNet
from advcloak_jax.training import state, steps
from advcloak_jax.training.recognizer_step import recognizer_step

SIZE, PERSONS, PER_PERSON = 32, 4, 5
BATCH = PERSONS * PER_PERSON
STAGES = ("recognizer", "image", "person")
RATE = 2e-8


def on_one_device(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return jax.vmap(step, in_axes=(None, None), out_axes=None, axis_name=steps.DEVICES, axis_size=1)


def prepared(stage: str, dtype: Any, rate: float = 1e-4) -> tuple[Callable[[Any, Any], Any], Callable[[], Any], Any]:
    """A step of the real, narrow networks, what makes its initial state, and a batch."""
    draw = np.random.default_rng(3)
    base = draw.uniform(size=(PERSONS, 1, 8, 8, 3)) * 0.6 + draw.uniform(size=(PERSONS, PER_PERSON, 8, 8, 3)) * 0.4
    faces = jnp.asarray(np.kron(base, np.ones((1, 1, SIZE // 8, SIZE // 8, 1))), jnp.float32)
    flat, places, key = faces.reshape(BATCH, SIZE, SIZE, 3), jnp.arange(BATCH), jax.random.key(7)
    backbone = IResNet((1, 1, 1, 1), 0.125, 16, dropout=0.0, dtype=dtype, axis_name=steps.DEVICES)
    if stage == "recognizer":
        optimiser = optax.sgd(rate, momentum=0.9)
        step: Any = recognizer_step(backbone, optimiser, margins.Margin("cosface", 16.0, 0.2))
        labels = jnp.repeat(jnp.arange(PERSONS), PER_PERSON)
        batch: Any = steps.RecognizerBatch(flat, labels, places, key)
        return step, lambda: state.init_recognizer(backbone, PERSONS, SIZE, optimiser, jax.random.key(2)), batch
    surrogate = backbone.clone(axis_name=None)
    variables = jax.eval_shape(lambda: surrogate.init(jax.random.key(5), flat, train=False))
    variables = jax.tree.map(lambda leaf: jnp.asarray(draw.uniform(0.02, 0.1, leaf.shape), jnp.float32), variables)
    gan = steps.Gan(
        Generator(width=8, blocks=1, dtype=dtype, axis_name=steps.DEVICES),
        Discriminator(width=8, dtype=dtype, axis_name=steps.DEVICES),
        optax.adam(rate, b1=0.5, b2=0.9),
        1.0,
        10.0,
        0.1,
        BATCH,
    )
    embeddings = recognizer.normalise(jnp.asarray(draw.normal(size=(PERSONS, PER_PERSON, 16)), jnp.float32))

    def embed(images: jax.Array) -> jax.Array:
        return recognizer.embed(surrogate, variables, images)

    def initial() -> Any:
        return state.init_gan(gan.generator, gan.discriminator, SIZE, gan.optimiser, jax.random.key(1))

    if stage == "image":
        return steps.image_step(gan, embed), initial, steps.ImageBatch(flat, embeddings.reshape(BATCH, -1), places, key)
    batch = steps.PersonBatch(faces, embeddings, subspace.fit(embeddings), places, key)
    return steps.person_step(gan, embed, small.person_config("convex-hull"), 0), initial, batch


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_networks_compute_in_bfloat16(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every convolution reads bfloat16; every loss, norm and projection is given float32 alone."""
    given: dict[str, set[str]] = {}

    def watched(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            arrays = [leaf for leaf in jax.tree.leaves((arguments, named)) if isinstance(leaf, jax.Array)]
            kinds = {str(array.dtype) for array in arrays if jnp.issubdtype(array.dtype, jnp.floating)}
            given.setdefault(name, set()).update(kinds)
            return function(*arguments, **named)

        return call

    watch = {
        losses: ("discriminator_loss", "generator_gan_loss", "norm_loss", "cosine_loss", "total"),
        subspace: ("project",),
        margins: ("loss",),
        recognizer: ("normalise",),
    }
    for module, names in watch.items():
        for name in names:
            monkeypatch.setattr(module, name, watched(getattr(module, name), name))
    step, initial, batch = prepared(stage, jnp.bfloat16)
    shapes = jax.eval_shape(initial)
    found = equations(on_one_device(step), shapes, batch)
    convolutions = [one for one in found if one.primitive.name == "conv_general_dilated"]
    assert len(convolutions) > 10
    assert {str(operand.aval.dtype) for one in convolutions for operand in one.invars} == {"bfloat16"}
    expected = {
        "recognizer": {"loss"},
        "image": {"discriminator_loss", "generator_gan_loss", "norm_loss", "cosine_loss", "total", "normalise"},
    }
    expected["person"] = expected["image"] | {"project"}
    assert set(given) >= expected[stage]
    assert set().union(*given.values()) == {"float32"}


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_kept_is_float32(stage: str) -> None:
    """Parameters, batch statistics, the optimiser's moments, and the metrics, before and after a step."""
    step, initial, batch = prepared(stage, jnp.bfloat16)
    before = jax.eval_shape(initial)
    after, metrics = jax.eval_shape(on_one_device(step), before, batch)
    for tree in (before, after, metrics):
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} <= {"float32", "int32"}
    assert jax.tree.structure(before) == jax.tree.structure(after)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["recognizer", "person"])
def test_losses_agree_with_float32(stage: str) -> None:
    found = []
    for dtype in (jnp.float32, jnp.bfloat16):
        step, initial, batch = prepared(stage, dtype)
        _, metrics = jax.jit(on_one_device(step))(jax.jit(initial)(), batch)
        found.append({name: float(value) for name, value in metrics.items() if name != "accuracy"})
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=0.03, abs=0.01), name


@pytest.mark.slow
def test_a_learning_rate_of_2e_8_still_moves_the_weights() -> None:
    """Stage II's published rate, with networks that compute in bfloat16: nearly every weight of a convolution moves.

    Kept in bfloat16 none would: that is what the parameters are float32 for.
    """
    step, initial, batch = prepared("person", jnp.bfloat16, RATE)
    start = jax.jit(initial)()
    after, _ = jax.jit(on_one_device(step))(start, batch)
    for network in ("generator", "discriminator"):
        before, moved = (getattr(one, network)["params"] for one in (start, after))
        moments = getattr(after, f"{network}_optimiser")[0].mu
        trees = (jax.tree.leaves_with_path(before), jax.tree.leaves(moved), jax.tree.leaves(moments))
        # A kernel's taps that only see padding have no gradient.
        weights = [
            np.stack([np.asarray(old), np.asarray(new)])[:, np.asarray(moment) != 0]
            for (path, old), new, moment in zip(*trees, strict=True)
            if path[-1].key == "kernel"
        ]
        old, new = np.concatenate(weights, axis=1)
        assert (new != old).mean() > 0.9
        assert np.abs(new.astype(np.float64) - old).max() == pytest.approx(RATE, rel=0.6)
        kept = old.astype(jnp.bfloat16)
        assert (kept + (new - old).astype(jnp.bfloat16) == kept).mean() > 0.9
