"""Convolutions of few channels, two columns at once, equal XLA's, and are chosen where they are faster."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import uniform
from jax import export

from advcloak_jax.networks import paired_columns
from advcloak_jax.networks.convolution import convolution

on_cpus = pytest.mark.skipif(jax.default_backend() != "cpu", reason="chosen on CPUs only")


def by_xla(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("inputs", [1, 3, 4])
@pytest.mark.parametrize(
    ("side", "size", "padding"), [(3, (5, 8), 1), (4, (6, 7), 1), (5, (6, 6), 0), (7, (9, 8), 3), (7, (3, 4), 6)]
)
def test_equals_the_convolution(side: int, size: tuple[int, int], padding: int, inputs: int) -> None:
    """With images side by side (many values to a pixel) and each by itself."""
    x = jnp.asarray(uniform("pairs.x", (3, *size, inputs)))
    kernel = jnp.asarray(uniform("pairs.kernel", (side, side, inputs, 6)))
    expected = by_xla(x, kernel, padding)
    assert expected.shape[2] % 2 == 0
    np.testing.assert_allclose(paired_columns.convolve(x, kernel, padding), expected, atol=1e-5)


def test_both_arrangements_are_covered() -> None:
    """Of the shapes above; what is beside an image must not leak into it."""
    assert 3 * 3 * 4 < paired_columns.LONG_ROWS <= 7 * 7 * 3
    x = jnp.asarray(uniform("pairs.lone", (2, 6, 6, 3)))
    kernel = jnp.asarray(uniform("pairs.kernel", (7, 7, 3, 8)))
    alone = paired_columns.convolve(x.at[1].set(0.0), kernel, 3)[0]
    np.testing.assert_allclose(paired_columns.convolve(x, kernel, 3)[0], alone, atol=1e-6)


@on_cpus
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "chosen"),
    [
        ((32, 48, 48, 3), (7, 7, 3, 16), 1, True),
        ((8, 112, 112, 3), (3, 3, 3, 32), 1, True),
        ((8, 112, 112, 3), (7, 7, 3, 64), 1, False),  # XLA's own is fast
        ((8, 112, 112, 16), (3, 3, 16, 16), 1, False),  # so it is here
        ((8, 48, 48, 3), (4, 4, 3, 16), 2, False),
        ((8, 48, 49, 3), (3, 3, 3, 16), 1, False),  # an odd number of columns
        ((1, 48, 48, 3), (7, 7, 3, 16), 1, False),  # one image
        ((8, 48, 48, 3), (1, 1, 3, 16), 1, False),
        ((8, 48, 48, 3), (7, 7, 3, 3), 1, False),  # to few channels: made row by row
    ],
)
def test_chosen_by_shape(shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, chosen: bool) -> None:
    x, taps = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(kernel, jnp.float32)
    assert paired_columns.suits(x, taps, stride, kernel[0] // 2) is chosen
    text = str(jax.make_jaxpr(lambda x, taps: convolution(x, taps, stride, kernel[0] // 2))(x, taps))
    assert (f",{2 * kernel[3]}]" in text.split("conv_general_dilated")[0]) is chosen


@on_cpus
def test_gradients_are_those_of_xlas_convolution() -> None:
    """Of one from colours, and of one to colours, whose input gradient is from colours."""
    for inputs, outputs in ((3, 16), (16, 3)):
        x = jnp.asarray(uniform("pairs.x", (3, 10, 12, inputs)))
        kernel = jnp.asarray(uniform("pairs.taps", (7, 7, inputs, outputs)))
        expected, pull = jax.vjp(lambda x, kernel: by_xla(x, kernel, 3), x, kernel)
        made, pull_ours = jax.vjp(lambda x, kernel: convolution(x, kernel, 1, 3), x, kernel)
        np.testing.assert_allclose(made, expected, atol=3e-5)
        cotangent = jnp.asarray(uniform("pairs.cotangent", expected.shape))
        for got, want in zip(pull_ours(cotangent), pull(cotangent), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-4 * float(jnp.abs(want).max()))


def test_an_exported_network_has_the_convolution_as_it_is() -> None:
    batch = export.symbolic_shape("b", constraints=["b >= 1"])[0]
    x, kernel = jax.ShapeDtypeStruct((batch, 28, 28, 3), jnp.float32), jnp.ones((3, 3, 3, 16))
    text = export.export(jax.jit(lambda x: convolution(x, kernel, 1, 1)))(x).mlir_module()
    assert "tensor<3x3x3x16xf32>" in text
    assert "x32xf32" not in text


def test_bfloat16_stays() -> None:
    x = jnp.asarray(uniform("pairs.x", (3, 8, 8, 3)), jnp.bfloat16)
    kernel = jnp.asarray(uniform("pairs.kernel", (7, 7, 3, 8)), jnp.bfloat16)
    made = paired_columns.convolve(x, kernel, 3)
    assert made.dtype == jnp.bfloat16
    exact = by_xla(x.astype(jnp.float32), kernel.astype(jnp.float32), 3)
    np.testing.assert_allclose(made.astype(jnp.float32), exact, atol=0.02 * float(jnp.abs(exact).max()))
