"""The Inception-ResNets equal their PyTorch twins; their maps, parameters, names and gradients are what is stated."""

from pathlib import Path

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import pytest
from golden.fill import images, uniform
from state_dicts import filled, shapes_of

from advcloak_jax.networks.torch_weights import TENSOR_OF_LEAF, TorchLayer
from advcloak_jax.recognizers.convention import Convention
from advcloak_jax.recognizers.inception_layers import ConvNorm
from advcloak_jax.recognizers.inception_resnet_v1 import InceptionResNetV1
from advcloak_jax.recognizers.inception_resnet_v2 import InceptionResNetV2
from advcloak_jax.recognizers.torch_names.inception_resnet import LAYOUTS, facenet_layers

GOLDEN = Path(__file__).parent / "golden"
AS_GIVEN = Convention(std=(128.0, 128.0, 128.0))
TINY = {"width": 0.125, "embedding_size": 16, "dropout": 0.0, "convention": AS_GIVEN}
(FACENET,) = LAYOUTS


def layers_of(module: nn.Module, shapes: dict) -> dict[str, TorchLayer]:
    """Each layer's PyTorch layer; version 2's twin has the Flax modules' names."""
    if isinstance(module, InceptionResNetV1):
        return facenet_layers()
    paths = {path[1:-1] for path in flax.traverse_util.flatten_dict(shapes)}
    return {"/".join(path): TorchLayer(".".join(path), "flattened" if "dense" in path else "") for path in paths}


def filled_by_names(module: nn.Module, size: int, side: int = 1) -> dict:
    return filled(module, size, layers_of(module, shapes_of(module, size)), side)


@pytest.mark.parametrize(
    ("module", "golden", "side"),
    [
        # Enlarges to 160 x 160, as PyTorch's antialiased bicubic interpolation did for the twin.
        (InceptionResNetV1(), "inception_resnet_v1", 1),
        (InceptionResNetV2(embedding_size=16), "inception_resnet_v2", 12),
    ],
)
def test_full_size_equals_the_pytorch_twin(module: nn.Module, golden: str, side: int) -> None:
    variables = filled_by_names(module, 112, side)
    features = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images("recognizer", 1, 112))
    np.testing.assert_allclose(features, np.load(GOLDEN / f"{golden}.npz")["evaluate"], atol=1e-4)


@pytest.mark.parametrize(
    ("module", "name", "batch", "size", "side"),
    [(InceptionResNetV1(**TINY), "v1", 4, 112, 1), (InceptionResNetV2(**TINY), "v2", 8, 28, 1)],
)
def test_training_equals_the_pytorch_twin(module: nn.Module, name: str, batch: int, size: int, side: int) -> None:
    variables = filled_by_names(module, size, side)
    train = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable="batch_stats"))
    features, updated = train(variables, images(f"recognizer.{name}", batch, size))
    answers = np.load(GOLDEN / f"inception_resnet_{name}_small.npz")
    np.testing.assert_allclose(features, answers["train"], atol=2e-4)
    layers = layers_of(module, variables)
    running = {}
    for path, value in flax.traverse_util.flatten_dict(updated).items():
        tensor = f"{layers['/'.join(path[1:-1])].name}.{TENSOR_OF_LEAF[path[-1]]}"
        running[tensor] = (value * uniform(f"{tensor}.weights", value.shape)).sum()
    np.testing.assert_allclose([running[key] for key in sorted(running)], answers["running"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "padding", "stride"),
    [
        ((1, 1), (0, 0), 1),
        ((1, 1), (0, 0), 2),
        ((1, 1), (1, 1), 1),
        ((3, 3), (1, 1), 1),
        ((3, 3), (0, 0), 1),
        ((3, 3), (0, 0), 2),
        ((3, 3), (1, 0), 1),
        ((7, 1), (2, 1), 1),
        ((1, 7), (1, 2), 2),
    ],
)
def test_every_form_of_a_convolution_equals_xlas(
    kernel: tuple[int, int], padding: tuple[int, int], stride: int
) -> None:
    x, taps = uniform("form.x", (2, 9, 10, 3)), uniform("form.taps", (*kernel, 3, 4))
    module = ConvNorm(4, kernel, padding, stride, activate=False)
    norm = {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}
    running = {"mean": np.zeros(4, np.float32), "var": np.full(4, 1 - 1e-3, np.float32)}
    variables = {"params": {"conv": {"kernel": taps}, "norm": norm}, "batch_stats": {"norm": running}}
    sides = [(zeros, zeros) for zeros in padding]
    expected = jax.lax.conv_general_dilated(
        x, taps, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(module.apply(variables, x, train=False), expected, atol=1e-5)
