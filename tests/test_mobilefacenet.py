"""MobileFaceNet equals PyTorch twins under every published naming, and the published networks themselves."""

import os
from pathlib import Path
from typing import Any

import flax.errors
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import State, images, uniform

from advcloak_jax.networks.torch_weights import TENSOR_OF_LEAF, TorchLayer, load
from advcloak_jax.recognizers.convention import Convention
from advcloak_jax.recognizers.layers import DepthwiseConv
from advcloak_jax.recognizers.mobilefacenet import MobileFaceNet
from advcloak_jax.recognizers.recognizer import embed
from advcloak_jax.recognizers.torch_names.layout import Match, Shapes
from advcloak_jax.recognizers.torch_names.mobilefacenet import (
    LAYOUTS,
    foamliu_layers,
    insightface_layers,
    trebien_layers,
    xiaoccer_layers,
)

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(os.environ.get("ADVCLOAK_SHARED", Path(__file__).parents[2] / "shared"))
EVERY = 3  # as in make_mobilefacenet.py
FEW = (1, 2, 1, 1)
NARROW: dict[str, Any] = {"width": 0.125, "embedding_size": 16}
FIELDS: dict[str, dict[str, Any]] = {
    "mobilefacenet": {},
    "mobilefacenet_relu6": {"relu6": True},
    "mbf": {"scale": 2},
    "mbf_large": {"scale": 4, "units": (2, 8, 12, 4)},
}
PUBLISHED = {
    "xiaoccer": ("mobilefacenet", 128, (112, 96)),
    "trebien": ("mobilefacenet", 512, (112, 112)),
    "trebien_output_layer": ("mobilefacenet", 512, (112, 112)),
    "insightface": ("mbf", 512, (112, 112)),
    "insightface_large": ("mbf_large", 512, (112, 112)),
    "foamliu": ("mobilefacenet_relu6", 128, (112, 112)),
}
SMALL = (
    ("xiaoccer", {"units": FEW}, xiaoccer_layers(), (48, 32)),
    ("trebien", {}, trebien_layers(), (32, 32)),
    ("insightface", {"units": FEW, "scale": 2}, insightface_layers(FEW), (32, 32)),
    ("insightface_large", {"units": (2, 1, 1, 1), "scale": 4}, insightface_layers((2, 1, 1, 1)), (32, 32)),
    ("foamliu", {"units": FEW, "relu6": True}, foamliu_layers(), (32, 32)),
)


def template(module: MobileFaceNet, size: tuple[int, int]) -> Any:
    return jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False))


def filled(module: MobileFaceNet, size: tuple[int, int], layers: dict[str, TorchLayer]) -> Any:
    """Variables from tensors that are made from the names in PyTorch."""
    shapes = {}
    for path, leaf in flax.traverse_util.flatten_dict(template(module, size)).items():
        layer, shape = layers["/".join(path[1:-1])], leaf.shape
        if len(shape) == 2:
            shape = (1, 1, *shape) if layer.kind == "pointwise" else shape
        in_torch = (*shape[:-3:-1], *shape[:-2]) if len(shape) > 1 else shape
        shapes[f"{layer.name}.{TENSOR_OF_LEAF[path[-1]]}"] = in_torch
    return load(template(module, size), State(shapes), layers)


def published_shapes(name: str) -> Shapes:
    answers = np.load(GOLDEN / f"mobilefacenet_{name}.npz")
    pairs = zip(answers["names"], answers["shapes"], strict=True)
    return {str(tensor): tuple(int(length) for length in shape if length) for tensor, shape in pairs}


def recognised(shapes: Shapes) -> Match:
    """What the one layout that fits says."""
    (match,) = [found for layout in LAYOUTS if (found := layout.recognise(shapes)) is not None]
    return match


@pytest.mark.parametrize(("name", "fields", "layers", "size"), SMALL)
def test_equals_the_pytorch_twin(
    name: str, fields: dict[str, Any], layers: dict[str, TorchLayer], size: tuple[int, int]
) -> None:
    """Features and their gradient by the image in evaluation mode; features and running statistics in training."""
    answers = np.load(GOLDEN / f"mobilefacenet_{name}.npz")
    module = MobileFaceNet(**NARROW, **fields)
    variables = filled(module, size, layers)
    batch = jnp.asarray(images("mobilefacenet", 8, max(size))[:, : size[0], : size[1]])
    cotangent = uniform("mobilefacenet.cotangent", answers["evaluate"].shape)

    def weighted(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = module.apply(variables, x, train=False)
        return (features * cotangent).sum(), features

    gradient, features = jax.jit(jax.grad(weighted, has_aux=True))(batch[:2])
    np.testing.assert_allclose(features, answers["evaluate"], atol=1e-4)
    largest = np.abs(answers["gradient"]).max()
    np.testing.assert_allclose(gradient[:, ::EVERY, ::EVERY], answers["gradient"], atol=1e-4 * largest)

    features, updated = jax.jit(lambda x: module.apply(variables, x, train=True, mutable="batch_stats"))(batch)
    np.testing.assert_allclose(features, answers["train"], atol=2e-4)
    running = {
        f"{layers['/'.join(path[:-1])].name}.{TENSOR_OF_LEAF[path[-1]]}": value
        for path, value in flax.traverse_util.flatten_dict(updated["batch_stats"]).items()
    }
    sums = [(running[tensor] * uniform(f"{tensor}.weights", running[tensor].shape)).sum() for tensor in sorted(running)]
    np.testing.assert_allclose(sums, answers["running"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_state_dicts_are_recognised_and_used_up(name: str) -> None:
    shapes, (architecture, embedding_size, size) = published_shapes(name), PUBLISHED[name]
    match = recognised(shapes)
    assert match.architecture == architecture
    assert match.fields == {"width": 1.0, "embedding_size": embedding_size}
    assert match.image_size == size
    module = MobileFaceNet(**match.fields, **FIELDS[architecture])
    needed = template(module, size)
    used = {
        f"{match.layers['/'.join(path[1:-1])].name}.{TENSOR_OF_LEAF[path[-1]]}"
        for path in flax.traverse_util.flatten_dict(needed)
    }
    assert used == {tensor for tensor in shapes if not tensor.endswith("num_batches_tracked")}
    load(needed, {tensor: np.broadcast_to(np.float32(0), shape) for tensor, shape in shapes.items()}, match.layers)
    learnt = sum(leaf.size for leaf in jax.tree.leaves(needed["params"]))
    assert learnt == np.load(GOLDEN / f"mobilefacenet_{name}.npz")["parameters"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_damaged_state_dicts_keep_their_layout(name: str) -> None:
    """One tensor lost or flattened at a time: still recognised, so that the importer can tell what is wrong."""
    shapes, architecture = published_shapes(name), PUBLISHED[name][0]
    for tensor, shape in shapes.items():
        lost = {other: value for other, value in shapes.items() if other != tensor}
        assert recognised(lost).architecture == architecture
        flat = {**shapes, tensor: (int(np.prod(shape)),)}
        assert recognised(flat).architecture == architecture
    assert all(layout.recognise({"input_layer.0.weight": (64, 3, 3, 3)}) is None for layout in LAYOUTS)


def test_widths_are_recognised() -> None:
    """The shapes of a network of half the width, with another embedding, for a smaller image."""
    half = {
        name: tuple(n // 2 if n >= 32 else n for n in shape) for name, shape in published_shapes("xiaoccer").items()
    }
    half["linear7.conv.weight"] = (256, 1, 4, 5)
    half["linear1.conv.weight"] = (96, 256, 1, 1)
    match = recognised(half)
    assert match.fields == {"width": 0.5, "embedding_size": 96}
    assert match.image_size == (64, 80)
    state = {tensor: np.broadcast_to(np.float32(0), shape) for tensor, shape in half.items() if "linear1" not in tensor}
    state |= {f"linear1.bn.{part}": np.zeros(96) for part in ("weight", "bias", "running_mean", "running_var")}
    state["linear1.conv.weight"] = np.zeros((96, 256, 1, 1))
    load(template(MobileFaceNet(**match.fields), match.image_size), state, match.layers)


def test_gradient_by_the_image_is_the_slope() -> None:
    module = MobileFaceNet(units=FEW, **NARROW)
    variables = filled(module, (32, 32), xiaoccer_layers())
    inputs = jnp.asarray(images("mobilefacenet.slope", 2, 32))
    cosine = jax.jit(jax.value_and_grad(lambda x: (embed(module, variables, x) * uniform("direction", (2, 16))).sum()))
    _, gradient = cosine(inputs)
    assert jnp.isfinite(gradient).all()
    step = gradient / jnp.linalg.norm(gradient)
    slope = (cosine(inputs + 0.01 * step)[0] - cosine(inputs - 0.01 * step)[0]) / 0.02
    np.testing.assert_allclose(slope, jnp.linalg.norm(gradient), rtol=0.02)


def test_convention_cuts_the_window_that_the_global_kernel_fits() -> None:
    """A network of 3:2 images takes the central columns of square ones; dropout acts in training alone."""
    module = MobileFaceNet(units=FEW, **NARROW)
    narrow = module.clone(convention=Convention(size=(48, 32)), dropout=0.9)
    variables = filled(narrow, (48, 48), xiaoccer_layers())
    assert variables["params"]["global"]["kernel"].shape == (3, 2, 1, 64)
    inputs = jnp.asarray(images("mobilefacenet.window", 2, 48))
    whole = jax.jit(lambda x: narrow.apply(variables, x, train=False))(inputs)
    window = jax.jit(lambda x: module.apply(variables, x, train=False))(inputs[:, :, 8:40])
    np.testing.assert_allclose(whole, window, atol=1e-6)
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        jax.eval_shape(lambda x: narrow.apply(variables, x, train=True, mutable="batch_stats"), inputs)


@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_depthwise_methods_are_the_same_layer(stride: int) -> None:
    """Groups of three channels, with the gradients by image and kernel."""
    x = jnp.asarray(uniform("depthwise", (2, 7, 6, 6)))
    taps = jnp.asarray(uniform("taps", (3, 3, 3, 6)))

    def answer(method: str) -> Any:
        layer = DepthwiseConv(stride, method, group=3)

        def weighted(x: jax.Array, taps: jax.Array) -> tuple[jax.Array, jax.Array]:
            made = layer.apply({"params": {"kernel": taps}}, x)
            assert isinstance(made, jax.Array)
            return (made * uniform("cotangent", made.shape)).sum(), made

        return jax.jit(jax.grad(weighted, (0, 1), has_aux=True))(x, taps)

    for got, want in zip(jax.tree.leaves(answer("shifted")), jax.tree.leaves(answer("grouped")), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
