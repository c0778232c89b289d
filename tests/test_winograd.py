"""Winograd's convolutions equal XLA's, and are chosen where they were measured to be faster."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import uniform
from jax import export

from advcloak_jax.networks import winograd
from advcloak_jax.networks.convolution import convolution


def by_xla(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """The convolution, in float64 where the values are."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


PRODUCTS = 16
"""Matrix products of a convolution in Winograd's form, and of its kernel's gradient."""
WHOLE, PARTS, LESS_THAN_ONE = (6, 8), ((7, 6), (5, 9), (3, 3)), (1, 2)
"""Maps by what they have of tiles."""


@pytest.mark.parametrize(
    ("size", "padding"),
    [*((size, padding) for size in (WHOLE, *PARTS) for padding in (0, 1, 2)), (LESS_THAN_ONE, 1), (LESS_THAN_ONE, 2)],
)
def test_equals_the_convolution_and_its_gradients(size: tuple[int, int], padding: int) -> None:
    x = jnp.asarray(uniform("winograd.x", (2, *size, 5)))
    kernel = jnp.asarray(uniform("winograd.kernel", (3, 3, 5, 4)))
    expected, pull = jax.vjp(lambda x, kernel: by_xla(x, kernel, padding), x, kernel)
    cotangent = jnp.asarray(uniform("winograd.cotangent", expected.shape))
    by_input, by_kernel = pull(cotangent)
    np.testing.assert_allclose(winograd.convolve(x, kernel, padding), expected, atol=1e-5)
    np.testing.assert_allclose(winograd.input_gradient(cotangent, kernel, padding), by_input, atol=1e-5)
    np.testing.assert_allclose(winograd.kernel_gradient(x, cotangent, padding), by_kernel, atol=1e-5)


def test_loses_about_a_digit() -> None:
    x, kernel = uniform("winograd.many", (2, 16, 16, 256)), uniform("winograd.taps", (3, 3, 256, 64))
    with jax.enable_x64():
        exact = np.asarray(by_xla(jnp.asarray(x, jnp.float64), jnp.asarray(kernel, jnp.float64), 1))
    errors = [
        np.abs(np.asarray(form(jnp.asarray(x), jnp.asarray(kernel), 1)) - exact).max() / np.abs(exact).max()
        for form in (by_xla, winograd.convolve)
    ]
    assert errors[1] < 3e-6
    assert errors[1] < 10 * errors[0]


def test_of_bfloat16_only_what_is_multiplied_is_rounded() -> None:
    """Its error, all gradients' too, is at most three times that of XLA's sums of the same rounded values."""
    x = jnp.asarray(uniform("winograd.many", (2, 16, 16, 128)), jnp.bfloat16)
    kernel = jnp.asarray(uniform("winograd.taps", (3, 3, 128, 64)), jnp.bfloat16)
    exact, pull_exact = jax.vjp(lambda *given: by_xla(*given, 1), x.astype(jnp.float32), kernel.astype(jnp.float32))
    plain, pull_plain = jax.vjp(lambda *given: by_xla(*given, 1), x, kernel)
    cotangent = jnp.asarray(uniform("winograd.cotangent", exact.shape), jnp.bfloat16)
    ours = (
        winograd.convolve(x, kernel, 1),
        winograd.input_gradient(cotangent, kernel, 1),
        winograd.kernel_gradient(x, cotangent, 1),
    )
    theirs, wanted = (plain, *pull_plain(cotangent)), (exact, *pull_exact(cotangent.astype(jnp.float32)))
    for got, other, want in zip(ours, theirs, wanted, strict=True):
        assert got.dtype == jnp.bfloat16
        errors = [float(jnp.sqrt(jnp.square(values.astype(jnp.float32) - want).mean())) for values in (got, other)]
        assert errors[0] < 3 * errors[1]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="chosen on CPUs only")
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "dtype", "forward", "gradient"),
    [
        ((4, 28, 28, 128), (3, 3, 128, 128), 1, jnp.float32, True, True),
        ((4, 28, 28, 128), (3, 3, 128, 128), 1, jnp.bfloat16, True, True),
        ((4, 28, 28, 128), (3, 3, 128, 128), 1, jnp.float16, False, False),
        ((4, 28, 28, 128), (3, 3, 128, 128), 2, jnp.float32, False, False),
        ((4, 28, 28, 128), (1, 1, 128, 128), 1, jnp.float32, False, False),
        ((4, 28, 28, 32), (3, 3, 32, 128), 1, jnp.float32, False, True),  # few channels
        ((4, 28, 28, 3), (3, 3, 3, 64), 1, jnp.float32, False, False),
        ((1, 14, 14, 256), (3, 3, 256, 256), 1, jnp.float32, False, True),  # too few pixels
        ((32, 7, 7, 512), (3, 3, 512, 512), 1, jnp.float32, False, True),  # a small map
        ((4, 112, 112, 64), (3, 3, 64, 64), 1, jnp.float32, False, True),  # a large one
        ((1, 28, 28, 256), (3, 3, 256, 256), 1, jnp.float32, False, True),  # one image
    ],
)
def test_chosen_by_shape(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, dtype: Any, forward: bool, gradient: bool
) -> None:
    x, taps = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(kernel, dtype)
    padding = kernel[0] // 2
    made = jax.eval_shape(lambda x, taps: convolution(x, taps, stride, padding), x, taps)
    assert winograd.suits_forward(x, taps, stride, padding) is forward
    assert winograd.suits_kernel_gradient(taps, made, stride) is gradient
    # Of these shapes' forms only Winograd's is 16 matrix products.
    text = str(jax.make_jaxpr(lambda x, taps: convolution(x, taps, stride, padding))(x, taps))
    assert (text.count("dot_general") == PRODUCTS) is forward


def test_an_exported_network_has_plain_convolutions() -> None:
    batch = export.symbolic_shape("b", constraints=["b >= 1"])[0]
    x, kernel = jax.ShapeDtypeStruct((batch, 28, 28, 128), jnp.float32), jnp.ones((3, 3, 128, 128))
    text = export.export(jax.jit(lambda x: convolution(x, kernel, 1, 1)))(x).mlir_module()
    assert "stablehlo.convolution" in text
    assert "dot_general" not in text


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="chosen on CPUs only")
def test_the_chosen_form_has_the_gradients_of_xlas() -> None:
    x = jnp.asarray(uniform("winograd.chosen", (24, 13, 12, 64)))
    kernel = jnp.asarray(uniform("winograd.chosen.taps", (3, 3, 64, 64)))
    assert winograd.suits_forward(x, kernel, 1, 1)
    expected, pull = jax.vjp(lambda x, kernel: by_xla(x, kernel, 1), x, kernel)
    got, ours = jax.vjp(lambda x, kernel: convolution(x, kernel, 1, 1), x, kernel)
    cotangent = jnp.asarray(uniform("winograd.chosen.cotangent", expected.shape))
    assert str(jax.make_jaxpr(ours)(cotangent)).count("dot_general") == 2 * PRODUCTS  # of both gradients
    for mine, theirs in zip((got, *ours(cotangent)), (expected, *pull(cotangent)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5 * float(jnp.abs(theirs).max()))
