"""The ViT equals its PyTorch twin, has the gradient its values have, and computes in bfloat16 where it may."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import images, uniform
from state_dicts import filled, shapes_of

from advcloak_jax.errors import UserError
from advcloak_jax.networks.torch_weights import load
from advcloak_jax.recognizers.torch_names.vit import vit_layers
from advcloak_jax.recognizers.vit import Attention, PatchEmbedding, ViT

GOLDEN = Path(__file__).parent / "golden"
SMALL = {"depth": 2, "heads": 2, "embedding_size": 16, "dropout": 0.0}


def features(module: ViT, variables: dict, inputs: jax.Array) -> jax.Array:
    return module.apply(variables, inputs, train=False)


def test_full_size_equals_the_pytorch_twin() -> None:
    module = ViT()
    found = jax.jit(lambda v, x: features(module, v, x))(
        filled(module, 112, vit_layers()), jnp.asarray(images("recognizer", 1, 112))
    )
    np.testing.assert_allclose(found, np.load(GOLDEN / "vit.npz")["evaluate"], atol=1e-4)


def test_training_equals_the_pytorch_twin() -> None:
    module = ViT(**SMALL)
    train = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable="batch_stats"))
    found, updated = train(filled(module, 32, vit_layers(2)), jnp.asarray(images("recognizer.small", 8, 32)))
    answers = np.load(GOLDEN / "vit_small.npz")
    np.testing.assert_allclose(found, answers["train"], atol=1e-4)
    expected = load(updated, {name: answers[name] for name in answers.files}, vit_layers(2))
    for got, want in zip(jax.tree.leaves(updated), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_gradient_equals_the_pytorch_twins_and_finite_differences() -> None:
    module = ViT(**SMALL)
    variables = filled(module, 32, vit_layers(2))
    inputs = jnp.asarray(images("recognizer.small", 8, 32)[:2])
    answers = np.load(GOLDEN / "vit_small.npz")
    total = jax.jit(lambda x: features(module, variables, x).sum())
    found = jax.jit(lambda x: features(module, variables, x))(inputs)
    np.testing.assert_allclose(found, answers["evaluate"], atol=1e-5)
    slope = jax.jit(jax.grad(total))(inputs)
    np.testing.assert_allclose(slope[:, ::3, ::3], answers["gradient"], atol=1e-5)
    direction = jnp.asarray(uniform("direction", inputs.shape))
    step = 1e-2
    rise = (total(inputs + step * direction) - total(inputs - step * direction)) / (2 * step)
    np.testing.assert_allclose((slope * direction).sum(), rise, rtol=1e-2)


def test_patches_are_a_strided_convolution() -> None:
    x = jnp.asarray(uniform("patches", (2, 16, 24, 3)))
    kernel, bias = uniform("kernel", (8, 8, 3, 5)), uniform("bias", (5,))
    found = PatchEmbedding(5).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = jax.lax.conv_general_dilated(x, kernel, (8, 8), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(found, expected.reshape(2, 6, 5) + bias, atol=1e-4)


def test_bfloat16_stays_close_and_its_features_and_parameters_are_float32() -> None:
    variables = filled(ViT(**SMALL), 32, vit_layers(2))
    inputs = jnp.asarray(images("recognizer.small", 8, 32)[:2])
    module = ViT(**SMALL, dtype=jnp.bfloat16)
    rounded = jax.jit(lambda x: features(module, variables, x))(inputs)
    assert rounded.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(module, 32))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(rounded, np.load(GOLDEN / "vit_small.npz")["evaluate"], atol=0.1)


def test_attention_keeps_scores_in_float32() -> None:
    """Scores near 990 that differ by less than 2: in bfloat16 they would be multiples of 4."""
    x = jnp.asarray([[[20.0] * 7 + [1.0], [20.0] * 6 + [20.125, -1.0]]])
    pick_last = np.zeros((8, 8), np.float32)
    pick_last[-1] = 1
    kernels = {"qkv": np.concatenate([np.eye(8), np.eye(8), pick_last], 1), "proj": np.eye(8)}
    params = {name: {"kernel": kernel, "bias": np.zeros(kernel.shape[1])} for name, kernel in kernels.items()}
    scores = np.asarray(x[0], np.float64) @ np.asarray(x[0], np.float64).T / np.sqrt(8)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    expected = (weights / weights.sum(1, keepdims=True)) @ np.asarray([1.0, -1.0])
    found = Attention(1, jnp.bfloat16).apply({"params": params}, x)
    assert np.abs(np.diff(scores, axis=1)).max() < 2
    np.testing.assert_allclose(found[0, :, 0].astype(jnp.float32), expected, atol=0.01)


def test_width_counts_whole_heads_and_sides_are_multiples_of_the_patch() -> None:
    for width, heads in ((1.0, 6), (0.5, 3), (0.01, 1)):
        shapes = shapes_of(ViT(depth=1, width=width), 16)
        assert shapes["params"]["positions"]["table"].shape == (1, 4, 64 * heads)
    with pytest.raises(UserError, match="multiples of 8, not 20x20"):
        shapes_of(ViT(depth=1), 20)
