"""Candidates for single layers: XLA's own form on a CPU, against the form that the networks use. With gradients."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from advcloak_jax.networks import products
from advcloak_jax.networks.convolution import convolution, oblong, pointwise
from advcloak_jax.networks.norms import LayerNorm, instance_norm
from advcloak_jax.networks.upsampling import upsample_conv
from advcloak_jax.recognizers import feature_maps
from advcloak_jax.recognizers.depthwise import depthwise
from benchmarks.candidate_parts import Pair, bound, by_all, noise, without_winograd
from benchmarks.sizes import Size

SCANNED = 2
"""Convolutions, one after the other, in a loop and written out."""


def _by_xla(x: jax.Array, kernel: jax.Array, stride: int, padding: int, groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def scan_written_out(size: Size, batch: int) -> Pair:
    """A convolution of the surrogate, twice: in `lax.scan`, against written out."""
    side, channels = size.image // 2, size.channels[0]
    arguments = noise(batch, side, side, channels), 0.01 * noise(3, 3, channels, channels, seed=1)

    def scanned(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.scan(lambda x, _: (_by_xla(x, kernel, 1, 1), None), x, None, length=SCANNED)[0]

    def written_out(x: jax.Array, kernel: jax.Array) -> jax.Array:
        for _ in range(SCANNED):
            x = _by_xla(x, kernel, 1, 1)
        return x

    return Pair(by_all(scanned, *arguments), by_all(written_out, *arguments), SCANNED, SCANNED)


def strided(layer: int, kernel: int) -> Callable[[Size, int], Pair]:
    """A strided convolution of the discriminator, of which the input gradient is made in another form."""

    def make(size: Size, batch: int) -> Pair:
        side, channels = size.image // 2**layer, size.discriminator * 2 ** (layer - 1)
        arguments = noise(batch, side, side, channels), noise(kernel, kernel, channels, 2 * channels, seed=1)
        ways = (functools.partial(form, stride=2, padding=1) for form in (_by_xla, convolution))
        return Pair(*(by_all(way, *arguments) for way in ways))

    return make


def few_channels(size: Size, batch: int) -> Pair:
    """The generator's last convolution, to 3 channels."""
    arguments = noise(batch, size.image, size.image, size.generator), noise(7, 7, size.generator, 3, seed=1)
    ways = (functools.partial(form, stride=1, padding=3) for form in (_by_xla, convolution))
    return Pair(*(by_all(way, *arguments) for way in ways))


def layer_norm(size: Size, batch: int) -> Pair:
    """A layer norm of the generator: the gradients of scale and bias as a sum, against as a product with ones."""
    side, channels = size.image // 2, size.generator
    x = noise(batch, side, side, channels)
    scale, bias = (noise(side, side, channels, seed=seed) for seed in (1, 2))

    def by_sum(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        values = x - x.mean((1, 2, 3), keepdims=True)
        return values * lax.rsqrt(jnp.square(values).mean((1, 2, 3), keepdims=True) + 1e-5) * scale + bias

    def by_product(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return LayerNorm().apply({"params": {"scale": scale, "bias": bias}}, x)  # type: ignore[return-value]

    return Pair(*(by_all(way, x, scale, bias) for way in (by_sum, by_product)))


def instance_norm_by_steps(size: Size, batch: int) -> Pair:
    """The generator's widest instance norm, differentiated step by step, against with its gradient in closed form."""
    # Weighted: the gradient along what a norm itself makes is rounding.
    x, weights = (noise(batch, size.image, size.image, size.generator, seed=seed) for seed in (0, 1))

    def by_steps(x: jax.Array) -> jax.Array:
        values = x - x.mean((1, 2), keepdims=True)
        return values * lax.rsqrt(jnp.square(values).mean((1, 2), keepdims=True) + 1e-5)

    def weighted(norm: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        return norm(x) * weights

    return Pair(*(by_all(functools.partial(weighted, norm), x) for norm in (by_steps, instance_norm)))


def depthwise_shifted(size: Size, batch: int) -> Pair:
    """A depthwise convolution as XLA groups it, against as nine shifted products."""
    side, channels = size.image // 2, size.channels[1]
    arguments = noise(batch, side, side, channels), noise(3, 3, channels, seed=1)

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _by_xla(x, kernel[:, :, None], 1, 1, groups=channels)

    shifted = functools.partial(depthwise, stride=(1, 1), padding=(1, 1))
    return Pair(by_all(grouped, *arguments), by_all(shifted, *arguments))


def kernel_gradient(size: Size, batch: int) -> Pair:
    """The gradient by the kernel of a residual block's convolution, against a product for each of its taps."""
    side, channels = size.image // 4, 4 * size.generator
    x, cotangent = (noise(batch, side, side, channels, seed=seed) for seed in (0, 1))

    def by_xla(x: jax.Array, cotangent: jax.Array) -> jax.Array:
        kernel = jax.ShapeDtypeStruct((3, 3, channels, channels), jnp.float32)
        return jax.linear_transpose(lambda kernel: _by_xla(x, kernel, 1, 1), kernel)(cotangent)[0]

    def by_taps(x: jax.Array, cotangent: jax.Array) -> jax.Array:
        return products.kernel_gradient(x, cotangent, (3, 3), 1, (1, 1))

    return Pair(*(bound(way, x, cotangent) for way in (by_xla, by_taps)))


def small_map(stage: int) -> Callable[[Size, int], Pair]:
    """A convolution of the surrogate's stage with its gradient by the input, against as matrix products."""

    def make(size: Size, batch: int) -> Pair:
        side, channels = -(-size.image // 2 ** (stage + 1)), size.channels[stage]
        x, kernel = noise(batch, side, side, channels), noise(3, 3, channels, channels, seed=1)

        def run(form: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
            made, pull_back = jax.vjp(lambda x: form(x, kernel, 1, 1), x)
            return made, pull_back(made)[0]

        with without_winograd():
            return Pair(*(bound(functools.partial(run, form), x, kernel) for form in (_by_xla, convolution)))

    return make


def fewer_multiplications(side: int, channels: Callable[[Size], int]) -> Callable[[Size, int], Pair]:
    """A 3x3 convolution of maps of 1 / side of the image's size, with gradients: as before, against Winograd's."""

    def make(size: Size, batch: int) -> Pair:
        pixels, depth = size.image // side, channels(size)
        arguments = noise(batch, pixels, pixels, depth), noise(3, 3, depth, depth, seed=1)
        form = functools.partial(convolution, stride=1, padding=1)
        with without_winograd():
            old = by_all(form, *arguments)
        return Pair(old, by_all(form, *arguments))

    return make


def columns_in_pairs(kernel: int) -> Callable[[Size, int], Pair]:
    """A convolution of colours to the generator's first channels: XLA's, against two columns at once."""

    def make(size: Size, batch: int) -> Pair:
        arguments = noise(batch, size.image, size.image, 3), noise(kernel, kernel, 3, size.generator, seed=1)
        ways = (functools.partial(form, stride=1, padding=kernel // 2) for form in (_by_xla, convolution))
        return Pair(*(bound(way, *arguments) for way in ways))

    return make


def pointwise_product(size: Size, batch: int) -> Pair:
    """A 1x1 convolution between the surrogate's first two stages, with gradients: XLA's, against as a product."""
    side = size.image // 2
    arguments = noise(batch, side, side, size.channels[0]), noise(1, 1, *size.channels[:2], seed=1)
    ways = (functools.partial(_by_xla, stride=1, padding=0), functools.partial(pointwise, strides=(1, 1)))
    return Pair(*(by_all(way, *arguments) for way in ways))


def oblong_kernel(size: Size, batch: int) -> Pair:
    """A 7x1 convolution of Inception-ResNet-v2's second stage, with gradients: by its kernel XLA's, against products.

    Its map is that of a 112 x 112 image; its channels are in the proportion of the size.
    """
    inputs, outputs = (channels * size.channels[0] // 64 for channels in (160, 192))
    arguments = noise(batch, 27, 23, inputs), noise(7, 1, inputs, outputs, seed=1)

    def by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
        sides = [(2, 2), (1, 1)]
        return lax.conv_general_dilated(x, kernel, (1, 1), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return Pair(*(by_all(way, *arguments) for way in (by_xla, functools.partial(oblong, padding=(2, 1)))))


def upsampling(layer: int) -> Callable[[Size, int], Pair]:
    """An upsampling of the generator: its product over three axes of pixels, against over pixels as rows."""

    def make(size: Size, batch: int) -> Pair:
        side, channels = size.image // 4 * 2**layer, size.generator * 4 // 2**layer
        arguments = noise(batch, side, side, channels), noise(4, 4, channels, channels // 2, seed=1)

        def over_axes(x: jax.Array, kernel: jax.Array) -> jax.Array:
            outputs = kernel.shape[-1]
            taps = kernel.reshape(2, 2, 2, 2, channels, outputs)[:, ::-1, :, ::-1]
            taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(4 * channels, 4 * outputs)
            padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            shifted = [padded[:, i : i + side + 1, j : j + side + 1] for i in range(2) for j in range(2)]
            parities = jnp.concatenate(shifted, axis=-1) @ taps
            parities = parities.reshape(batch, side + 1, side + 1, 2, 2, outputs).transpose(0, 1, 3, 2, 4, 5)
            return parities.reshape(batch, 2 * side + 2, 2 * side + 2, outputs)[:, 1:-1, 1:-1]

        return Pair(*(by_all(way, *arguments) for way in (over_axes, upsample_conv)))

    return make


def dropout_of_maps(size: Size, batch: int) -> Pair:
    """Random numbers of 16 bits for the dropout of a feature map: a word for each, against two of a word.

    They are other numbers; what is returned is whether each way drops its share.
    """
    keys, shape = jax.random.split(jax.random.key(0), 2), (batch, size.image // 2, size.image // 2, size.channels[0])
    values = jnp.ones(shape)

    def a_word_each(keys: jax.Array, values: jax.Array) -> jax.Array:
        own = (shape[0] // 2, *shape[1:])
        drawn = jax.vmap(lambda key: jax.random.bits(key, own, jnp.uint16))(keys).reshape(shape)
        return jnp.where(drawn >= round(0.1 * 2**16), values / 0.9, 0)

    def with_share(way: Callable[..., jax.Array], keys: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        made = way(keys, values)
        return made, jnp.round(jnp.mean(made == 0), 1)

    ways = (a_word_each, lambda keys, values: feature_maps.dropout(keys, 0.1)(values))
    calls = [bound(functools.partial(with_share, way), keys, values) for way in ways]
    return Pair(*(lambda call=call: call()[1] for call in calls))  # type: ignore[misc]


PAIRS: dict[str, Callable[[Size, int], Pair]] = {
    "convolutions written out of a loop": scan_written_out,
    "strided convolution, 4x4": strided(1, 4),
    "strided convolution, 3x3": strided(4, 3),
    "convolution to 3 channels": few_channels,
    "layer norm's gradients as a product": layer_norm,
    "instance norm's gradient in closed form": instance_norm_by_steps,
    "depthwise convolution as shifted products": depthwise_shifted,
    "kernel gradient as a product for each tap": kernel_gradient,
    "1x1 convolution as a product": pointwise_product,
    "7x1 kernel gradient as products": oblong_kernel,
    "upsampling over rows of pixels, first": upsampling(0),
    "upsampling over rows of pixels, second": upsampling(1),
    "dropout's numbers two to a word": dropout_of_maps,
    "Winograd's convolution, residual block": fewer_multiplications(4, lambda size: 4 * size.generator),
    "Winograd's convolution, first stage": fewer_multiplications(2, lambda size: size.channels[0]),
    "Winograd's convolution, second stage": fewer_multiplications(4, lambda size: size.channels[1]),
    "Winograd's convolution, third stage": fewer_multiplications(8, lambda size: size.channels[2]),
    "columns in pairs, 7x7": columns_in_pairs(7),
    "columns in pairs, 3x3": columns_in_pairs(3),
    "small map as products, third stage": small_map(2),
    "small map as products, last stage": small_map(3),
}
