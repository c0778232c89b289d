"""Counted operations against XLA's own count of the lowered program, and against counts by hand."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from test_precision import on_one_device

from advcloak_jax.networks.discriminator import Discriminator
from advcloak_jax.networks.generator import Generator
from advcloak_jax.recognizers import margins, recognizer, zoo
from advcloak_jax.recognizers.layers import DepthwiseConv
from advcloak_jax.training import device_peaks, flops, state, steps
from advcloak_jax.training.recognizer_step import recognizer_step
from benchmarks.candidate_parts import without_winograd

ELEMENTWISE = 0.05
"""XLA counts norms and activations too: at most so much of the whole."""


def by_xla(function: Callable[..., Any], *arguments: Any) -> float:
    """Operations of the program as it is lowered, before any optimisation, with convolutions as their layers are."""
    with without_winograd():
        found = jax.jit(function).lower(*arguments).cost_analysis()
    assert found is not None
    return float(found["flops"])


def shapes(module: nn.Module, size: int) -> tuple[Any, Any]:
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(lambda key, image: module.init(key, image, train=False), jax.random.key(0), image)
    return variables, image


SLOW = [
    pytest.param(zoo.build(name), size, id=name, marks=pytest.mark.slow)
    for name, size in (
        ("ir50", 112),
        ("senet18", 112),
        ("iresnet18", 112),
        ("mobilenet", 112),
        ("mbf", 112),
        ("inception_resnet_v1", 160),
        ("inception_resnet_v2", 112),
        ("vit_s8", 112),
    )
]


@pytest.mark.parametrize(
    ("module", "size"),
    [
        pytest.param(Generator(), 112, id="generator"),
        pytest.param(Discriminator(), 112, id="discriminator"),
        pytest.param(zoo.build("ir18"), 112, id="ir18"),
        *SLOW,
    ],
)
def test_a_network_is_counted_as_xla_counts_it(module: nn.Module, size: int) -> None:
    counted = flops.forward(module, size)
    found = by_xla(lambda variables, image: module.apply(variables, image, train=False), *shapes(module, size))
    assert 1 - ELEMENTWISE < counted / found <= 1.001


def test_layers_by_hand() -> None:
    class Layers(nn.Module):
        """Convolutions of three kinds and a dense layer."""

        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
            """[B, 8, 8, 3] -> [B, 5]."""
            x = nn.Conv(6, (3, 3), strides=2, padding=1)(x)  # 4x4; the first window of a row and column is cut
            x = DepthwiseConv(method="shifted")(x)
            x = nn.Conv(6, (3, 3), feature_group_count=3)(x)  # the first and the last are cut
            return nn.Dense(5)(x.reshape(x.shape[0], -1))

    products = (2 + 3 * 3) ** 2 * 3 * 6 + 16 * 9 * 6 + (2 + 2 * 3 + 2) ** 2 * 2 * 6 + 96 * 5
    assert flops.forward(Layers(), 8) == 2 * products


def test_rematerialisation_is_not_counted() -> None:
    plain = zoo.build("ir18", width=0.1)
    assert flops.forward(plain, 32) == flops.forward(plain.clone(remat=True), 32)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["recognizer", "image"])
def test_a_step_is_counted_as_xla_counts_it(stage: str) -> None:
    """The real networks and sizes, on one image per device, lowered and not compiled."""
    count, size = 2, 112
    face = jax.ShapeDtypeStruct((count, size, size, 3), jnp.float32)
    places, key = jnp.arange(count), jax.random.key(0)
    backbone = zoo.build("ir18", axis_name=steps.DEVICES, dropout=0.0)
    of_backbone = flops.forward(backbone.clone(axis_name=None), size)
    if stage == "recognizer":
        transformation = optax.identity()
        step: Any = recognizer_step(backbone, transformation, margins.Margin("cosface"))
        initial = jax.eval_shape(lambda: state.init_recognizer(backbone, 5000, size, transformation, key))
        batch: Any = steps.RecognizerBatch(face, places, places, key)
        counted = flops.recognizer_step(of_backbone, 512, 5000, count)
        found = by_xla(on_one_device(step), initial, batch)
    else:
        generator, discriminator = Generator(axis_name=steps.DEVICES), Discriminator(axis_name=steps.DEVICES)
        gan = steps.Gan(generator, discriminator, optax.identity(), 1.0, 10.0, 3.0, count)
        initial = jax.eval_shape(lambda: state.init_gan(generator, discriminator, size, gan.optimiser, key))
        surrogate = backbone.clone(axis_name=None)
        variables = shapes(surrogate, size)[0]
        embeddings = jax.ShapeDtypeStruct((count, 512), jnp.float32)

        def run(initial: Any, batch: Any, variables: Any) -> Any:
            step = steps.image_step(gan, lambda faces: recognizer.embed(surrogate, variables, faces))
            return on_one_device(step)(initial, batch)

        found = by_xla(run, initial, steps.ImageBatch(face, embeddings, places, key), variables)
        parts = (flops.forward(one.clone(axis_name=None), size) for one in (generator, discriminator))
        counted = flops.gan_step(*parts, of_backbone, count)
    assert counted == pytest.approx(found, rel=ELEMENTWISE)


@pytest.mark.parametrize(
    ("kind", "dtype", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100-SXM4-40GB", "float32", 156),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989),
        ("NVIDIA H100 PCIe", "float32", 378),
        ("NVIDIA H200", "float32", 495),
        ("NVIDIA L4", "bfloat16", 120),
        ("TPU v3", "bfloat16", 61.5),
        ("TPU v4", "float32", 275),
        ("TPU v5 lite", "bfloat16", 197),
        ("TPU v5p", "bfloat16", 459),
        ("TPU v6 lite", "bfloat16", 918),
    ],
)
def test_peaks(kind: str, dtype: str, teraflops: float) -> None:
    found = device_peaks.find(kind)
    assert found is not None
    assert found.flops(dtype) == teraflops * 1e12


@pytest.mark.parametrize(
    "kind", ["cpu", "NVIDIA L40", "NVIDIA L40S", "NVIDIA A10", "NVIDIA H100", "Tesla T4", "TPU v7", ""]
)
def test_a_peak_is_never_guessed(kind: str) -> None:
    assert device_peaks.find(kind) is None
