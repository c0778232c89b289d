"""The operators of MXNet that have weights: convolution, batch norm, dense, PReLU. At inference, as MXNet computes."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.convolution import convolution, pointwise
from advcloak_jax.networks.layers import KAIMING_NORMAL, Dtype
from advcloak_jax.recognizers.depthwise import Pair, depthwise
from advcloak_jax.recognizers.mxnet.attributes import Attributes
from advcloak_jax.recognizers.mxnet.values import CHANNELS_LAST, DENSE_KERNEL, KERNEL, Parameter, Value

# Depthwise kernels of more taps are grouped convolutions.
_MOST_TAPS = 25


def vector(length: int, initial: float, collection: str = "params") -> Parameter:
    """One value per channel."""
    return Parameter((length,), (0,), collection, nn.initializers.constant(initial))


def convolve(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """Convolution: data [B, I, H, W], weight [O, I / groups, kh, kw] (and bias [O]) -> [B, O, h, w], in `dtype`."""
    kernel_size, stride, padding, dilation, groups = _convolution_sizes(attributes)
    x, kernel = inputs[0].stored(CHANNELS_LAST).astype(dtype), inputs[1].stored(KERNEL).astype(dtype)
    inputs_per_group, outputs = kernel.shape[2:]
    is_square = len(set(kernel_size)) == len(set(stride)) == len(set(padding)) == 1
    is_undilated = dilation == (1, 1)
    one_window = kernel_size == x.shape[1:3] and padding == (0, 0)
    few_taps = one_window or kernel_size[0] * kernel_size[1] <= _MOST_TAPS
    if groups == outputs and inputs_per_group == 1 and is_undilated and few_taps:
        made = depthwise(x, kernel[:, :, 0], stride, padding)
    elif groups == 1 and kernel_size == (1, 1) and padding == (0, 0):
        made = pointwise(x, kernel, stride)
    elif groups == 1 and is_undilated and is_square and padding[0] < kernel_size[0] > 1:
        made = convolution(x, kernel, stride[0], padding[0])
    else:
        made = _grouped(x, kernel, stride, padding, dilation, groups)
    if len(inputs) == 3:
        made = made + inputs[2].array.astype(dtype)
    return Value(made, CHANNELS_LAST)


def convolution_parameters(attributes: Attributes, data: Value) -> list[Parameter]:
    """Weight and, unless `no_bias`, bias of a Convolution that reads `data`."""
    kernel_size, *_, groups = _convolution_sizes(attributes)
    outputs, channels = attributes.integer("num_filter"), data.shape[1]
    if outputs < 1 or groups < 1 or channels % groups or outputs % groups:
        raise ValueError(f"{groups} groups do not divide {channels} channels and {outputs} filters")
    weight = Parameter((outputs, channels // groups, *kernel_size), KERNEL, "params", KAIMING_NORMAL)
    return [weight] if attributes.flag("no_bias", False) else [weight, vector(outputs, 0.0)]


def _convolution_sizes(
    attributes: Attributes,
) -> tuple[Pair, Pair, Pair, Pair, int]:
    """Kernel, stride, padding, dilation (each for rows and columns) and groups."""
    attributes.choice("layout", "NCHW", ("NCHW",))
    return (
        pair(attributes, "kernel"),
        pair(attributes, "stride", 1),
        pair(attributes, "pad", 0),
        pair(attributes, "dilate", 1),
        attributes.integer("num_group", 1),
    )


def pair(attributes: Attributes, key: str, default: int | None = None) -> Pair:
    """Two whole numbers, of rows and columns; an empty tuple is the default. UserError for other dimensions."""
    values = attributes.integers(key, None if default is None else (default, default))
    if not values and default is not None:
        return (default, default)
    if len(values) != 2 or min(values) < (0 if key == "pad" else 1):
        attributes.refuse(key, "two sizes, for images,")
    return values[0], values[1]


def _grouped(
    x: jax.Array,
    kernel: jax.Array,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> jax.Array:
    """XLA's convolution of x [B, H, W, I] with kernel [kh, kw, I / groups, O]."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        stride,
        [(padding[0],) * 2, (padding[1],) * 2],
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def batch_norm(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """BatchNorm by the running statistics: data, gamma, beta, moving mean, moving variance -> the data's shape.

    In float32 inside. MXNet takes gamma for 1, whatever the file says, unless `fix_gamma` is False.
    """
    data, gamma, beta, mean, var = inputs
    axis = attributes.integer("axis", 1)
    scale = jax.lax.rsqrt(var.array + attributes.number("eps", 1e-3))
    if not attributes.flag("fix_gamma", True):
        scale = scale * gamma.array
    x = data.array.astype(jnp.float32)
    normalised = (x - data.along(mean.array, axis)) * data.along(scale, axis) + data.along(beta.array, axis)
    return data._replace(array=normalised.astype(data.array.dtype))


def batch_norm_parameters(attributes: Attributes, data: Value) -> list[Parameter]:
    """Gamma, beta, and the running mean and variance."""
    channels = data.array.shape[data.axis(attributes.integer("axis", 1))]
    statistics = [vector(channels, 0.0, "batch_stats"), vector(channels, 1.0, "batch_stats")]
    return [vector(channels, 1.0), vector(channels, 0.0), *statistics]


def dense(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """FullyConnected: data [B, ...] flattened (or its last axis), weight [O, I], bias [O] -> [B, O], in `dtype`."""
    x = inputs[0].plain()
    if attributes.flag("flatten", True):
        x = x.reshape(x.shape[0], -1)
    made = x.astype(dtype) @ inputs[1].stored(DENSE_KERNEL).astype(dtype)
    if len(inputs) == 3:
        made = made + inputs[2].array.astype(dtype)
    return Value.of(made)


def dense_parameters(attributes: Attributes, data: Value) -> list[Parameter]:
    """Weight and, unless `no_bias`, bias of a FullyConnected that reads `data`."""
    outputs = attributes.integer("num_hidden")
    lengths = data.shape[1:] if attributes.flag("flatten", True) else data.shape[-1:]
    if outputs < 1:
        attributes.refuse("num_hidden", "numbers from 1")
    weight = Parameter((outputs, math.prod(lengths)), DENSE_KERNEL, "params", nn.initializers.xavier_uniform())
    return [weight] if attributes.flag("no_bias", False) else [weight, vector(outputs, 0.0)]


_LEAKY_KINDS = ("leaky", "prelu", "elu", "selu", "gelu", "rrelu")


def leaky_relu(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """LeakyReLU of every kind; "prelu" has a slope [C] per channel, "rrelu" at inference the mean of its bounds."""
    data, kind = inputs[0], attributes.choice("act_type", "leaky", _LEAKY_KINDS)
    x = data.array
    if kind == "elu":
        made = jax.nn.elu(x, attributes.number("slope", 0.25))
    elif kind in ("selu", "gelu"):
        made = jax.nn.selu(x) if kind == "selu" else jax.nn.gelu(x, approximate=False)
    elif kind == "prelu":
        made = jnp.where(x >= 0, x, x * data.along(inputs[1].array, 1).astype(x.dtype))
    else:
        bounds = (attributes.number("lower_bound", 0.125), attributes.number("upper_bound", 0.334))
        slope = attributes.number("slope", 0.25) if kind == "leaky" else sum(bounds) / 2
        made = jnp.where(x >= 0, x, x * slope)
    return data._replace(array=made)


def leaky_relu_parameters(attributes: Attributes, data: Value) -> list[Parameter]:
    """The slopes of "prelu"."""
    is_prelu = attributes.choice("act_type", "leaky", _LEAKY_KINDS) == "prelu"
    return [vector(data.shape[1], 0.25)] if is_prelu else []
