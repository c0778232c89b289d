"""Convolutions as matrix products equal XLA's, and are chosen where they were measured to be faster."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import uniform

from advcloak_jax.networks import products
from advcloak_jax.networks.convolution import convolution, oblong, pointwise


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
        "kernel": (products.kernel_gradient(x, cotangent, (kernel, kernel), stride, (padding, padding)), by_kernel),
    }
    for name, (got, want) in answers.items():
        assert got.dtype == dtype, name
        scale = float(jnp.abs(want).max())
        np.testing.assert_allclose(
            got.astype(jnp.float32), want, atol=scale * (1e-5 if dtype == jnp.float32 else 2e-2), err_msg=name
        )


@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [
        ((27, 23), (7, 1), (2, 1)),  # as Inception-ResNet-v2 has them
        ((25, 25), (1, 7), (1, 2)),
        ((12, 12), (3, 1), (1, 0)),
        ((12, 11), (1, 3), (0, 1)),
    ],
)
@pytest.mark.parametrize("channels", [(64, 96), (3, 5)])
def test_oblong_equals_the_convolution_and_its_gradients(
    size: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int], channels: tuple[int, int]
) -> None:
    x = jnp.asarray(uniform("oblong.x", (2, *size, channels[0])))
    taps = jnp.asarray(uniform("oblong.taps", (*kernel, *channels)))
    sides = [(zeros, zeros) for zeros in padding]

    def plain(x: jax.Array, taps: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, taps, (1, 1), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    # The wide ones are to have the kernel's gradient as products, the narrow ones XLA's.
    by_products = products.suits_kernel_gradient(taps, jax.eval_shape(plain, x, taps))
    assert by_products is (jax.default_backend() == "cpu" and channels == (64, 96))
    assert_same_with_gradients(lambda x, taps: oblong(x, taps, padding), plain, x, taps)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="products are chosen on CPUs only")
@pytest.mark.parametrize(("channels", "expected"), [(64, 2), (8, 3)])
def test_large_oblong_kernels_have_their_gradient_as_products(channels: int, expected: int) -> None:
    def gradients(x: jax.Array, kernel: jax.Array) -> Any:
        made, pull = jax.vjp(lambda x, kernel: oblong(x, kernel, (2, 1)), x, kernel)
        return made, pull(made)

    assert convolutions(gradients, (1, 27, 23, channels), (7, 1, channels, channels)) == expected


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 3)])
def test_pointwise_equals_the_convolution_and_its_gradients(strides: tuple[int, int]) -> None:
    x = jnp.asarray(uniform("pointwise.x", (2, 6, 7, 5)))
    kernel = jnp.asarray(uniform("pointwise.kernel", (1, 1, 5, 3)))

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert_same_with_gradients(lambda x, kernel: pointwise(x, kernel, strides), plain, x, kernel)
    assert convolutions(lambda x, kernel: pointwise(x, kernel, strides), x.shape, kernel.shape) == 0


@pytest.mark.parametrize("rows", [12, 13])
@pytest.mark.parametrize("over", [(1, 0), (1, 1), (0, 0), (0, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_product_multiplies_over_any_axes_and_sums_in_float32(rows: int, over: tuple[int, int], dtype: Any) -> None:
    a = jnp.asarray(uniform("product.a", (rows, 7)), dtype)
    shape = [3, 3]
    shape[over[1]] = a.shape[over[0]]
    b = jnp.asarray(uniform("product.b", tuple(shape)), dtype)
    exact_a, exact_b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    found = products.product(a, b, over)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.tensordot(exact_a, exact_b, ([over[0]], [over[1]])), atol=1e-5)


def test_multiply_rounds_bfloat16_only_at_the_end_and_has_the_gradients_of_a_product() -> None:
    a = jnp.asarray(uniform("multiply.a", (64, 200)), jnp.bfloat16)
    b = jnp.asarray(uniform("multiply.b", (200, 32)), jnp.bfloat16)
    exact, pull = jax.vjp(jnp.matmul, a.astype(jnp.float32), b.astype(jnp.float32))
    got, ours = jax.vjp(products.multiply, a, b)
    cotangent = jnp.asarray(uniform("multiply.cotangent", exact.shape), jnp.bfloat16)
    for found, wanted in zip((got, *ours(cotangent)), (exact, *pull(cotangent.astype(jnp.float32))), strict=True):
        assert found.dtype == jnp.bfloat16
        # Half a unit in the last of 8 bits, and what float32's sums lose.
        np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=2**-8, atol=1e-4)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="products are chosen on CPUs only")
def test_bfloat16_kernel_gradients_read_their_pixels_along_rows_once_compiled() -> None:
    """XLA's fast product does, and XLA would take a plain transpose back into the slow one."""
    x = jax.ShapeDtypeStruct((4, 16, 16, 64), jnp.bfloat16)
    gradient = jax.jit(lambda x, cotangent: products.kernel_gradient(x, cotangent, (4, 4), 2, (1, 1)))
    text = gradient.lower(x, jax.ShapeDtypeStruct((4, 8, 8, 128), jnp.bfloat16)).compile().as_text()
    assert "lhs_contracting_dims={1}" in text
    assert "lhs_contracting_dims={0}" not in text


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="products are chosen on CPUs only")
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "float32", "bfloat16"),
    [
        ((4, 56, 56, 128), (4, 4, 128, 256), 2, False, True),  # as the generator encodes
        ((4, 112, 112, 64), (4, 4, 64, 128), 2, False, False),
        ((4, 14, 14, 512), (3, 3, 512, 512), 2, True, True),
        ((4, 14, 14, 16), (3, 3, 16, 16), 1, False, False),
    ],
)
def test_more_convolutions_are_one_product_in_bfloat16(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, float32: bool, bfloat16: bool
) -> None:
    for dtype, expected in ((jnp.float32, float32), (jnp.bfloat16, bfloat16)):
        x, taps = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(kernel, dtype)
        assert products.suits_forward(x, taps, stride, 1) is expected


def assert_same_with_gradients(form: Callable[..., Any], plain: Callable[..., Any], *arguments: jax.Array) -> None:
    """Both give the same, and the same gradients for a cotangent that differs from pixel to pixel."""
    got, pull = jax.vjp(form, *arguments)
    expected, pull_plain = jax.vjp(plain, *arguments)
    np.testing.assert_allclose(got, expected, atol=1e-5 * float(jnp.abs(expected).max()))
    cotangent = jnp.asarray(uniform("cotangent", expected.shape))
    for found, wanted in zip(pull(cotangent), pull_plain(cotangent), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * float(jnp.abs(wanted).max()))


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
