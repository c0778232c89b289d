"""A frozen recogniser embeds as before, to the bit, and makes nothing of its weights alone any more."""

from collections import Counter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_training as small
from golden.fill import images
from jaxpr_walk import equations

from advcloak_jax.cloaks import blocks, gradient
from advcloak_jax.cloaks.objectives import Objective
from advcloak_jax.config import ImageConfig
from advcloak_jax.config.cloaks import AttackSettings
from advcloak_jax.jobs.resident import make_resident
from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.frozen import freeze
from advcloak_jax.recognizers.iresnet import IResNet
from advcloak_jax.recognizers.recognizer import Recognizer, embed
from advcloak_jax.training.feed import ResidentFeed

SIZE = 32
UNITS: dict[str, Any] = {"units": (1, 1, 1, 1), "width": 0.125, "embedding_size": 16}
NARROW: dict[str, nn.Module] = {
    "evolve": IResNet(**UNITS),
    "arcface": IResNet(**UNITS, layout="arcface_torch", reduction=16, remat=True),
    **{
        name: zoo.build(name, width=0.125, embedding_size=16, axis_name=None)
        for name in ("mobilenet", "mobilefacenet", "inception_resnet_v1", "vit_s8")
    },
}


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def narrow(name: str, dtype: Any) -> Recognizer:
    """With weights of every kind drawn, so that each counts."""
    module = NARROW[name].clone(dtype=dtype)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)), train=False))
    draw = np.random.default_rng(1)

    def leaf(shape: Any) -> jax.Array:
        values = draw.uniform(0.5, 1.5, shape.shape)
        if shape.ndim > 1:
            values = draw.normal(size=shape.shape) * (shape.size / shape.shape[-1]) ** -0.5
        return jnp.asarray(values, jnp.float32)

    return Recognizer(module, jax.tree.map(leaf, shapes))


def exactly(module: nn.Module, variables: Any, faces: jax.Array) -> jax.Array:
    """XLA may keep more digits than bfloat16 has where a number is rounded and read at once; not here."""
    lowered = jax.jit(lambda v, x: embed(module, v, x)).lower(variables, faces)
    return lowered.compile({"xla_allow_excess_precision": False})(variables, faces)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.usefixtures("on_a_gpu")
def test_it_embeds_as_before(name: str) -> None:
    """In bfloat16, where a kernel that was read in float32 would have lost digits."""
    recognizer, faces = narrow(name, jnp.bfloat16), jnp.asarray(images("frozen", 2, SIZE))
    frozen = freeze(recognizer, SIZE)
    expected = exactly(recognizer.module, recognizer.variables, faces)
    np.testing.assert_array_equal(exactly(frozen.module, frozen.variables, faces), expected)
    assert np.ptp(np.asarray(expected)) > 0


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.usefixtures("on_a_gpu")
def test_nothing_is_made_of_weights_alone(name: str) -> None:
    recognizer = narrow(name, jnp.bfloat16)
    faces = jax.ShapeDtypeStruct((2, SIZE, SIZE, 3), jnp.float32)

    def operations(recognizer: Recognizer) -> Counter[str]:
        found = equations(lambda variables, x: embed(recognizer.module, variables, x), recognizer.variables, faces)
        return Counter(one.primitive.name for one in found)

    less = operations(recognizer) - operations(freeze(recognizer, SIZE))
    leaves = [path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(recognizer.variables)]
    assert less["rsqrt"] == leaves.count("var")
    assert less["convert_element_type"] == leaves.count("kernel")


def test_every_architecture_can_be() -> None:
    """The pass that makes what is frozen is compiled once for equal modules, which must say that they are."""
    for name in zoo.ARCHITECTURES:
        assert hash(zoo.build(name)) == hash(zoo.build(name)), name


def test_a_cpu_has_it_as_it_was() -> None:
    recognizer = narrow("evolve", jnp.bfloat16)
    assert freeze(recognizer, SIZE) is recognizer


@pytest.mark.usefixtures("on_a_gpu")
def test_generators_are_trained_against_it() -> None:
    recognizer, devices = narrow("evolve", jnp.bfloat16), jax.local_devices()
    feed = ResidentFeed({}, lambda first, count: np.zeros((count, 2), np.int32), devices, "pmap")
    config = ImageConfig(image_size=SIZE, parallel="pmap")
    resident = make_resident(config, feed, recognizer, jax.random.key(0), devices)
    assert jax.tree.structure(resident.surrogate) == jax.tree.structure(freeze(recognizer, SIZE).variables)


def test_masks_against_it_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small.make_data()
    attack = gradient.attack(Objective("plain"), AttackSettings(steps=3))
    keys = blocks.person_keys(data.key, small.PERSONS)
    surrogates = [Recognizer(small.SmallRecognizer(), data.surrogate)]
    masks = blocks.runner(attack, surrogates, looped=True)(data.faces, keys)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    used: list[Recognizer] = []

    def watched(recognizer: Recognizer, size: int) -> Recognizer:
        used.append(freeze(recognizer, size))
        return used[-1]

    monkeypatch.setattr(blocks, "freeze", watched)
    np.testing.assert_array_equal(blocks.runner(attack, surrogates, looped=True)(data.faces, keys), masks)
    assert ["frozen" in recognizer.variables for recognizer in used] == [True]
