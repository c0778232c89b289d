"""The forms that convolutions and padding take on GPUs, run on this machine, equal XLA's plain ones with gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import uniform

from advcloak_jax.networks import convolution, few_channels, upsampling
from advcloak_jax.networks.layers import reflect_pad

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def assert_same(ours: Callable[..., jax.Array], plain: Callable[..., jax.Array], *arguments: jax.Array) -> None:
    """Values and all gradients."""
    (made, pull), (expected, pull_expected) = jax.vjp(ours, *arguments), jax.vjp(plain, *arguments)
    np.testing.assert_allclose(made, expected, atol=1e-4)
    cotangent = jnp.asarray(uniform("accelerator.cotangent", expected.shape))
    for got, want in zip(pull(cotangent), pull_expected(cotangent), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("size", [(2, 2), (5, 7)])
def test_upsampling(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsampling, "_by_product", None)
    x, kernel = jnp.asarray(uniform("up.x", (2, *size, 6))), jnp.asarray(uniform("up.kernel", (4, 4, 6, 3)))

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_transpose(x, kernel, (2, 2), [(2, 2)] * 2, dimension_numbers=DIMENSIONS)

    assert_same(upsampling.upsample_conv, plain, x, kernel)


@pytest.mark.parametrize("padding", [3, 2, 0])
def test_few_channels(padding: int) -> None:
    x, kernel = jnp.asarray(uniform("few.x", (2, 9, 8, 32))), jnp.asarray(uniform("few.kernel", (7, 7, 32, 3)))
    assert few_channels.suits_kernel_gradient(kernel, 1)
    sides = [(padding, padding)] * 2
    plain = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), sides, dimension_numbers=DIMENSIONS)  # noqa: E731
    assert_same(lambda x, kernel: convolution.convolution(x, kernel, 1, padding), plain, x, kernel)


@pytest.mark.parametrize(("size", "kernel"), [((8, 10), 4), ((7, 9), 4), ((3, 4), 3)])
def test_strided(size: tuple[int, int], kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA's own gradients, which it knows for the library's."""
    monkeypatch.setattr(convolution, "_strided_input_gradient", None)
    x = jnp.asarray(uniform("strided.x", (2, *size, 5)))
    taps = jnp.asarray(uniform("strided.kernel", (kernel, kernel, 5, 6)))
    sides = [(1, 1)] * 2
    plain = lambda x, k: jax.lax.conv_general_dilated(x, k, (2, 2), sides, dimension_numbers=DIMENSIONS)  # noqa: E731
    assert_same(lambda x, taps: convolution.convolution(x, taps, 2, 1), plain, x, taps)


@pytest.mark.parametrize(
    ("kernel", "padding"), [((1, 7), (1, 2)), ((7, 1), (2, 1)), ((1, 3), (2, 1)), ((3, 1), (3, 0))]
)
def test_oblong(kernel: tuple[int, int], padding: tuple[int, int]) -> None:
    x = jnp.asarray(uniform("oblong.x", (2, 9, 10, 5)))
    taps = jnp.asarray(uniform("oblong.kernel", (*kernel, 5, 6)))
    sides = [(zeros, zeros) for zeros in padding]
    plain = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), sides, dimension_numbers=DIMENSIONS)  # noqa: E731
    assert_same(lambda x, taps: convolution.oblong(x, taps, padding), plain, x, taps)


@pytest.mark.parametrize("size", [(2, 2), (2, 5), (6, 3)])
def test_reflection(size: tuple[int, int]) -> None:
    x = jnp.asarray(uniform("reflect.x", (2, *size, 3)))
    assert_same(reflect_pad, lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"), x)


def test_what_is_not_a_number_stays_where_it_is() -> None:
    x = jnp.zeros((1, 4, 4, 1)).at[0, 2, 2, 0].set(jnp.nan)
    expected = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(reflect_pad(x), expected)
