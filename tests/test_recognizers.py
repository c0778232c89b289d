"""Recognisers equal their PyTorch twins, at full size and in training; the zoo's figures are true."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import images, uniform
from state_dicts import filled, shapes_of

from advcloak_jax.errors import UserError
from advcloak_jax.networks.torch_weights import TorchLayer, load
from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.iresnet import IResNet
from advcloak_jax.recognizers.layers import DepthwiseConv
from advcloak_jax.recognizers.mobilenet import MobileNet
from advcloak_jax.recognizers.recognizer import Recognizer, embed, normalise
from advcloak_jax.recognizers.senet import SENet
from advcloak_jax.recognizers.torch_names.iresnet import arcface_layers, iresnet_layers
from advcloak_jax.recognizers.torch_names.mobilenet import mobilenet_layers

GOLDEN = Path(__file__).parent / "golden"
TINY = {"units": (1, 2, 1, 1), "width": 0.25, "embedding_size": 16, "dropout": 0.0}
ARCFACE = TINY | {"layout": "arcface_torch"}


@pytest.mark.parametrize(
    ("name", "layers"),
    [("ir50", iresnet_layers()), ("senet18", iresnet_layers((2, 2, 2, 2))), ("mobilenet", mobilenet_layers())],
)
def test_full_size_equals_the_pytorch_twin(name: str, layers: dict[str, TorchLayer]) -> None:
    module = zoo.build(name)
    variables = filled(module, 112, layers)
    inputs = jnp.asarray(images("recognizer", 1, 112))
    features = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, inputs)
    np.testing.assert_allclose(features, np.load(GOLDEN / f"{name}.npz")["evaluate"], atol=1e-4)


@pytest.mark.parametrize(
    ("module", "golden", "layers"),
    [
        (IResNet(**TINY), "iresnet_small", iresnet_layers(TINY["units"])),
        (SENet(**TINY), "senet_small", iresnet_layers(TINY["units"])),
        (IResNet(**ARCFACE), "arcface_small", arcface_layers(TINY["units"])),
        (SENet(**ARCFACE), "arcface_se_small", arcface_layers(TINY["units"])),
        (MobileNet(width=0.125, embedding_size=16, dropout=0.0), "mobilenet_small", mobilenet_layers()),
    ],
)
def test_training_equals_the_pytorch_twin(module: nn.Module, golden: str, layers: dict[str, TorchLayer]) -> None:
    variables = filled(module, 32, layers)
    inputs = jnp.asarray(images("recognizer.small", 8, 32))
    train = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable="batch_stats"))
    features, updated = train(variables, inputs)
    answers = np.load(GOLDEN / f"{golden}.npz")
    np.testing.assert_allclose(features, answers["train"], atol=1e-4)
    expected = load(updated, {name: answers[name] for name in answers.files}, layers)
    for got, want in zip(jax.tree.leaves(updated), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)


def test_iresnet50_equals_the_pytorch_twin() -> None:
    module = IResNet(layout="arcface_torch")
    variables = filled(module, 112, arcface_layers())
    inputs = jnp.asarray(images("recognizer", 1, 112))
    features = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, inputs)
    np.testing.assert_allclose(features, np.load(GOLDEN / "iresnet50.npz")["evaluate"], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("layout", ["evolve", "arcface_torch"])
def test_gradient_by_the_image_is_the_slope_of_the_features(layout: str) -> None:
    units = (1, 1, 1, 1)
    module = SENet(units=units, width=0.125, embedding_size=16, layout=layout)
    layers = (iresnet_layers if layout == "evolve" else arcface_layers)(units)
    variables = filled(module, 16, layers)
    inputs = jnp.asarray(images("recognizer.gradient", 2, 16))
    both = jax.jit(jax.value_and_grad(lambda x: module.apply(variables, x, train=False).sum()))
    step, direction = 1e-3, jnp.asarray(uniform("direction", inputs.shape))
    rise = (both(inputs + step * direction)[0] - both(inputs - step * direction)[0]) / (2 * step)
    slope = both(inputs)[1]
    assert jnp.isfinite(slope).all()
    np.testing.assert_allclose((slope * direction).sum(), rise, rtol=1e-2)


def test_arcface_torch_does_not_learn_the_last_scale() -> None:
    units = (1, 1, 1, 1)
    module = IResNet(units=units, width=0.125, embedding_size=16, dropout=0.0, layout="arcface_torch")
    variables = filled(module, 32, arcface_layers(units))
    inputs = jnp.asarray(images("recognizer.small", 8, 32))

    def loss(head: dict) -> jax.Array:
        params = variables["params"] | {"head": head}
        features, _ = module.apply({**variables, "params": params}, inputs, train=True, mutable=["batch_stats"])
        return (features**2).sum()

    slope = jax.jit(jax.grad(loss))(variables["params"]["head"])["norm_embedding"]
    assert jnp.abs(slope["bias"]).min() > 0
    assert not slope["scale"].any()
    with pytest.raises(ValueError, match="'arcface_torch'"):
        shapes_of(IResNet(layout="mxnet"), 32)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_methods_are_the_same_layer(stride: int) -> None:
    x = jnp.asarray(uniform("depthwise", (2, 7, 8, 5)))
    variables = {"params": {"kernel": jnp.asarray(uniform("taps", (3, 3, 1, 5)))}}
    answers = [DepthwiseConv(stride, method).apply(variables, x) for method in ("grouped", "shifted")]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
    with pytest.raises(ValueError, match="grouped"):
        DepthwiseConv(stride, "fast").init(jax.random.key(0), x)


@pytest.mark.parametrize("name", zoo.names())
def test_zoo_entries_state_their_parameters(name: str) -> None:
    entry = zoo.architecture(name)
    params = shapes_of(zoo.build(name), *(entry.convention.size or (112, 112)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == entry.parameters


def test_zoo_builds_narrow_networks_for_any_image_and_names_the_nearest() -> None:
    for name in ("ir18", "senet18", "mobilenet"):
        module = zoo.build(name, width=0.01, embedding_size=12, dtype=jnp.bfloat16)
        out = jax.eval_shape(
            lambda module=module: module.init_with_output(
                {"params": jax.random.key(0), "dropout": jax.random.key(1)}, jnp.zeros((2, 50, 44, 3)), train=True
            )[0]
        )
        assert out.shape == (2, 12)
        assert out.dtype == jnp.float32
    with pytest.raises(UserError, match="ir50"):
        zoo.build("ir5")


def test_embeddings_are_unit_and_do_not_depend_on_the_batch() -> None:
    units = (1, 1, 1, 1)
    module = IResNet(units=units, width=0.125, embedding_size=16)
    variables = filled(module, 16, iresnet_layers(units))
    inputs = jnp.asarray(images("embed", 3, 16))
    recognizer = Recognizer(module=module, variables=variables)
    together = jax.jit(lambda recognizer, x: recognizer(x))(recognizer, inputs)
    np.testing.assert_allclose(jnp.linalg.norm(together, axis=-1), 1.0, atol=1e-6)
    alone = jax.jit(lambda v, x: embed(module, v, x))(variables, inputs[1:2])
    np.testing.assert_allclose(alone, together[1:2], atol=1e-5)
    slope = jax.grad(lambda f: normalise(f).sum())(jnp.zeros((1, 4)))
    assert jnp.isfinite(slope).all()
    np.testing.assert_allclose(normalise(jnp.array([[1e-3, 0.0]])), [[1.0, 0.0]], atol=1e-6)
