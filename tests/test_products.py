"""Convolutions as matrix products equal XLA's, and are chosen where they were measured to be faster."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import uniform

from advcloak_jax.networks import products
from advcloak_jax.networks.convolution import convolution


def by_xla(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """The convolution."""
    sides = [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "channels"),
    [
        ((6, 5), 3, 1, 1, (4, 6)),
        ((6, 5), 3, 1, 0, (50, 6)),  # a row of taps has more channels than are joined
        ((7, 8), 3, 2, 1, (4, 6)),
        ((8, 9), 4, 2, 1, (4, 6)),  # the last column is not read
        ((2, 3), 3, 2, 1, (4, 6)),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_equal_the_convolution_and_its_gradients(
    size: tuple[int, int], kernel: int, stride: int, padding: int, channels: tuple[int, int], dtype: Any
) -> None:
    x = jnp.asarray(uniform("products.x", (2, *size, channels[0])), dtype)
    taps = jnp.asarray(uniform("products.taps", (kernel, kernel, *channels)), dtype)
    # The reference in float32 from the same rounded values; bfloat16 has 8 bits.
    exact_x, exact_taps = x.astype(jnp.float32), taps.astype(jnp.float32)
    expected, pull = jax.vjp(lambda x, taps: by_xla(x, taps, stride, padding), exact_x, exact_taps)
    cotangent = jnp.asarray(uniform("products.cotangent", expected.shape), dtype)
    by_input, by_kernel = pull(cotangent.astype(jnp.float32))
    answers = {
        "forward": (products.by_product(x, taps, stride, padding), expected),
        "input": (products.input_gradient(cotangent, taps, size, stride, padding), by_input),
        "kernel": (products.kernel_gradient(x, cotangent, kernel, stride, padding), by_kernel),
    }
    for name, (got, want) in answers.items():
        assert got.dtype == dtype, name
        scale = float(jnp.abs(want).max())
        np.testing.assert_allclose(
            got.astype(jnp.float32), want, atol=scale * (1e-5 if dtype == jnp.float32 else 2e-2), err_msg=name
        )


def convolutions(function: Callable[..., Any], *shapes: tuple[int, ...]) -> int:
    """How many of XLA's convolutions a function makes."""
    return str(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes))).count("conv_general_dilated[")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="products are chosen on CPUs only")
@pytest.mark.parametrize(
    ("side", "channels", "forward", "backward"),
    [
        (7, 512, 0, 0),  # a small map of many channels: three products
        (112, 64, 1, 2),  # a large map of few channels: a product for the kernel's gradient alone
        (4, 8, 1, 3),  # nothing that is worth compiling longer for
    ],
)
def test_products_are_chosen_by_shape(side: int, channels: int, forward: int, backward: int) -> None:
    shapes = (1, side, side, channels), (3, 3, channels, channels)

    def gradients(x: jax.Array, kernel: jax.Array) -> Any:
        made, pull = jax.vjp(lambda x, kernel: convolution(x, kernel, 1, 1), x, kernel)
        return made, pull(made)

    assert convolutions(lambda x, kernel: convolution(x, kernel, 1, 1), *shapes) == forward
    assert convolutions(gradients, *shapes) == backward
