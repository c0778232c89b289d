"""The generator equals its PyTorch twin, its transposed convolution equals lax's, and it starts as published."""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import State, images, uniform
from state_dicts import shapes_of

from advcloak_jax.errors import UserError
from advcloak_jax.networks.convolution import convolution
from advcloak_jax.networks.generator import Generator
from advcloak_jax.networks.norms import BatchNorm, LayerNorm
from advcloak_jax.networks.torch_weights import generator_layers, load, to_flax_layout
from advcloak_jax.networks.upsampling import upsample_conv

GOLDEN = Path(__file__).parent / "golden"
EVERY = 5


class Twin(State):
    """State dict of the PyTorch twin: shapes from the published description."""

    def __init__(self, width: int = 64, size: int = 112) -> None:
        a, b, c = width, 2 * width, 4 * width
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (inputs, outputs, kernel) in enumerate(((3, a, 7), (a, b, 4), (b, c, 4))):
            shapes[f"encoder.{3 * i}.weight"] = (outputs, inputs, kernel, kernel)
            shapes[f"encoder.{3 * i}.bias"] = (outputs,)
        for block in range(3):
            for i in (1, 5):
                shapes[f"blocks.{block}.body.{i}.weight"] = (c, c, 3, 3)
                for part in ("weight", "bias", "running_mean", "running_var"):
                    shapes[f"blocks.{block}.body.{i + 1}.{part}"] = (c,)
        for i, (inputs, outputs, side) in enumerate(((c, b, size // 2), (b, a, size))):
            shapes[f"decoder.{3 * i}.weight"] = (inputs, outputs, 4, 4)
            shapes[f"decoder.{3 * i + 1}.weight"] = shapes[f"decoder.{3 * i + 1}.bias"] = (outputs, side, side)
        shapes["decoder.6.weight"] = (a, 3, 7, 7)
        super().__init__(shapes)


def test_equals_the_pytorch_twin_at_full_size() -> None:
    generator = Generator()
    shapes = shapes_of(generator, 112)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 7_280_448
    variables = load(shapes, Twin(), generator_layers())
    golden = np.load(GOLDEN / "generator.npz")
    inputs = jnp.asarray(images("generator", 2, 112))
    cotangent = jnp.asarray(uniform("generator.cotangent", (2, 112, 112, 3)))

    @jax.jit
    def evaluate(variables: dict, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        masks, pull = jax.vjp(lambda x: generator.apply(variables, x, train=False), inputs)
        return masks, pull(cotangent)[0]

    @jax.jit
    def train(variables: dict, inputs: jax.Array) -> tuple[jax.Array, dict]:
        return generator.apply(variables, inputs, train=True, mutable="batch_stats")

    masks, gradient = (np.asarray(values) for values in evaluate(variables, inputs))
    np.testing.assert_allclose(masks[:, ::EVERY, ::EVERY], golden["evaluate"], atol=1e-4)
    # Not element by element: among millions of ReLUs, one whose input rounds to the other side of 0 shifts a patch.
    difference = gradient[:, ::EVERY, ::EVERY] - golden["gradient"]
    assert np.linalg.norm(difference) < 2e-3 * np.linalg.norm(golden["gradient"])
    masks, updated = train(variables, inputs)
    np.testing.assert_allclose(np.asarray(masks)[:, ::EVERY, ::EVERY], golden["train"], atol=1e-4)
    expected = {name: golden[name] for name in golden.files if "running" in name}
    for path, leaf in jax.tree.leaves_with_path(load(updated, expected, generator_layers())):
        got = updated
        for key in path:
            got = got[key.key]
        np.testing.assert_allclose(got, leaf, atol=1e-4, rtol=1e-4)


def test_gradient_by_the_input_equals_the_pytorch_twins() -> None:
    generator = Generator(width=8)
    variables = load(shapes_of(generator, 16), Twin(8, 16), generator_layers())
    golden = np.load(GOLDEN / "generator.npz")
    inputs = jnp.asarray(images(f"generator.small.{golden['small_trial']}", 1, 16))
    cotangent = jnp.asarray(uniform("generator.small.cotangent", (1, 16, 16, 3)))
    slope = jax.jit(jax.grad(lambda x: jnp.sum(generator.apply(variables, x, train=False) * cotangent)))
    np.testing.assert_allclose(slope(inputs), golden["small_gradient"], atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_upsampling_equals_the_transposed_convolution_with_its_gradients(dtype: Any) -> None:
    """The reference in float32 from the same rounded values; bfloat16 has 8 bits."""
    x, kernel, cotangent = (
        jnp.asarray(uniform(name, shape)).astype(dtype).astype(jnp.float32)
        for name, shape in (("x", (2, 5, 7, 6)), ("kernel", (4, 4, 6, 3)), ("cotangent", (2, 10, 14, 3)))
    )

    def reference(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_transpose(x, kernel, (2, 2), [(2, 2)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    layer = nn.ConvTranspose(3, (4, 4), (2, 2), padding=[(2, 2)] * 2, use_bias=False)
    ours, pull = jax.vjp(upsample_conv, x.astype(dtype), kernel.astype(dtype))
    expected, pull_expected = jax.vjp(reference, x, kernel)
    np.testing.assert_allclose(layer.apply({"params": {"kernel": kernel}}, x), expected, atol=1e-5)
    pairs = [(ours, expected), *zip(pull(cotangent.astype(dtype)), pull_expected(cotangent), strict=True)]
    for (got, want), exact in zip(pairs, (1e-5, 1e-4, 1e-4), strict=True):
        assert got.dtype == dtype
        atol = exact if dtype == jnp.float32 else 0.02 * float(jnp.abs(want).max())
        np.testing.assert_allclose(got.astype(jnp.float32), want, atol=atol)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "inputs", "outputs"),
    [
        ((9, 8), 7, 1, 3, 5, 3),  # few outputs
        ((9, 8), 7, 1, 2, 32, 3),  # and many inputs: the kernel's gradient as a product
        ((8, 6), 3, 1, 0, 3, 5),  # few inputs, hence few outputs of the input's gradient
        ((8, 10), 4, 2, 1, 5, 6),  # strided, products exact
        ((7, 9), 4, 2, 1, 5, 6),  # the last row and column are not read
        ((3, 4), 3, 2, 1, 5, 6),  # output smaller than the kernel
        ((9, 8), 3, 2, 1, 5, 6),  # left to XLA
        # Large enough for matrix products on a CPU, by which of them:
        ((2, 2), 3, 1, 1, 256, 512),  # forward and both gradients
        ((7, 9), 3, 2, 1, 96, 400),  # forward and both gradients, strided
        ((8, 10), 4, 2, 1, 400, 32),  # forward and the kernel's gradient
        ((30, 29), 3, 1, 0, 40, 32),  # the kernel's gradient alone, its rows joined
        ((31, 29), 3, 2, 1, 40, 64),  # both gradients, strided, the last column not read
    ],
)
def test_convolution_equals_xlas_with_its_gradients(
    size: tuple[int, int], kernel: int, stride: int, padding: int, inputs: int, outputs: int
) -> None:
    x = jnp.asarray(uniform("convolution.x", (2, *size, inputs)))
    taps = jnp.asarray(uniform("convolution.taps", (kernel, kernel, inputs, outputs)))

    def reference(x: jax.Array, taps: jax.Array) -> jax.Array:
        sides = [(padding, padding)] * 2
        return jax.lax.conv_general_dilated(
            x, taps, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    expected, pull_expected = jax.vjp(reference, x, taps)
    ours, pull = jax.vjp(lambda x, taps: convolution(x, taps, stride, padding), x, taps)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    cotangent = jnp.asarray(uniform("convolution.cotangent", expected.shape))
    for got, want in zip(pull(cotangent), pull_expected(cotangent), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_layer_norm_equals_flaxs_with_its_gradients() -> None:
    x = jnp.asarray(uniform("layer.x", (3, 4, 5, 2))) + 3.0
    params = {"scale": jnp.asarray(uniform("layer.scale", (4, 5, 2))), "bias": jnp.ones((4, 5, 2))}
    cotangent = jnp.asarray(uniform("layer.cotangent", x.shape))
    axes = (-3, -2, -1)
    flax_norm = nn.LayerNorm(epsilon=1e-5, reduction_axes=axes, feature_axes=axes, use_fast_variance=False)
    answers = [
        jax.value_and_grad(lambda p, x, norm=norm: jnp.sum(norm.apply({"params": p}, x) * cotangent), argnums=(0, 1))(
            params, x
        )
        for norm in (LayerNorm(), flax_norm)
    ]
    for got, want in zip(jax.tree.leaves(answers[0]), jax.tree.leaves(answers[1]), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_starts_as_published() -> None:
    generator = Generator(width=16, blocks=0)
    init = jax.jit(lambda key: generator.init(key, jnp.zeros((1, 48, 48, 3)), train=False))
    params = init(jax.random.key(1))["params"]
    expected = {
        "encode_0": (2 / (3 * 49)) ** 0.5,
        "encode_2": (2 / (32 * 16)) ** 0.5,
        "decode_0": (2 / (32 * 16)) ** 0.5,  # fan-in of a transposed convolution: its outputs
        "decode_1": (2 / (16 * 16)) ** 0.5,
        "output": (2 / (3 * 49)) ** 0.5,
    }
    for name, deviation in expected.items():
        kernel = params[name]["kernel"]
        assert kernel.std() == pytest.approx(deviation, rel=4 / (2 * kernel.size) ** 0.5), name
    for name, size in (("decode_norm_0", 24), ("decode_norm_1", 48)):
        assert params[name]["scale"].std() == pytest.approx((2 / size**2) ** 0.5, rel=0.05)
        assert not params[name]["bias"].any()
    bias = jnp.abs(params["encode_1"]["bias"])
    assert 0.7 * (16 * 16) ** -0.5 < bias.max() <= (16 * 16) ** -0.5


def test_any_multiple_of_four_and_bfloat16() -> None:
    generator = Generator(width=8, blocks=1)
    inputs = jnp.asarray(images("small", 2, 20))
    narrow = jax.eval_shape(lambda x: generator.init_with_output(jax.random.key(0), x, train=False), inputs[:, :, :16])
    assert narrow[0].shape == (2, 20, 16, 3)
    variables = load(shapes_of(generator, 20), Twin(8, 20), generator_layers(blocks=1))
    masks = jax.jit(lambda v, x: generator.apply(v, x, train=False))(variables, inputs)
    half = Generator(width=8, blocks=1, dtype=jnp.bfloat16)
    coarse = jax.jit(lambda v, x: half.apply(v, x, train=False))(variables, inputs)
    assert coarse.dtype == jnp.float32
    assert float(jnp.abs(coarse - masks).max()) < 0.1
    with pytest.raises(UserError, match="multiple of 4"):
        shapes_of(generator, 18)


def test_batch_norm_pools_its_batch_over_the_device_axis() -> None:
    x = jnp.asarray(uniform("norm", (4, 3, 3, 5))) + 10.0
    cotangent = jnp.asarray(uniform("norm.cotangent", x.shape))
    variables = {
        "params": {"scale": jnp.arange(1.0, 6.0), "bias": jnp.ones(5)},
        "batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)},
    }

    def whole(x: jax.Array) -> tuple[jax.Array, dict]:
        return BatchNorm().apply(variables, x, train=True, mutable="batch_stats")

    def halves(x: jax.Array) -> tuple[jax.Array, dict]:
        one = lambda part: BatchNorm(axis_name="i").apply(variables, part, train=True, mutable="batch_stats")  # noqa: E731
        y, updated = jax.vmap(one, axis_name="i")(x.reshape(2, 2, 3, 3, 5))
        return y.reshape(x.shape), jax.tree.map(lambda leaf: leaf[1], updated)

    (y, updated), (pooled, pooled_updated) = jax.jit(whole)(x), jax.jit(halves)(x)
    np.testing.assert_allclose(pooled, y, atol=2e-5)
    for ours, want in zip(jax.tree.leaves(pooled_updated), jax.tree.leaves(updated), strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-5)

    def slope(norm: BatchNorm, x: jax.Array, cotangent: jax.Array) -> jax.Array:
        """As in training, differentiated on each device."""
        apply = lambda x: norm.apply(variables, x, train=True, mutable="batch_stats")[0]  # noqa: E731
        return jax.vjp(apply, x)[1](cotangent)[0]

    parts = [values.reshape(2, 2, 3, 3, 5) for values in (x, cotangent)]
    of_halves = jax.jit(jax.vmap(functools.partial(slope, BatchNorm(axis_name="i")), axis_name="i"))(*parts)
    np.testing.assert_allclose(
        jax.jit(slope, static_argnums=0)(BatchNorm(), x, cotangent), of_halves.reshape(x.shape), atol=2e-4
    )


def test_wrong_weights_are_refused() -> None:
    shapes = shapes_of(Generator(width=32), 112)
    with pytest.raises(UserError, match=r"encoder\.0\.weight|encoder\.0\.bias|blocks"):
        load(shapes, Twin(), generator_layers())
    with pytest.raises(UserError, match="no tensor"):
        load(shapes, {}, generator_layers())
    assert to_flax_layout(np.zeros((4, 6, 2, 3))).shape == (2, 3, 6, 4)
