"""Every operator of MXNet that we can run, by the names its symbols use."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advcloak_jax.networks.layers import Dtype
from advcloak_jax.recognizers.mxnet import layers, pooling, shapes
from advcloak_jax.recognizers.mxnet.attributes import Attributes
from advcloak_jax.recognizers.mxnet.values import Parameter, Value

Apply = Callable[[Attributes, Sequence[Value], Dtype], Value | list[Value]]


def _none(attributes: Attributes, data: Value) -> list[Parameter]:
    return []


class Operator(NamedTuple):
    """One operator at inference.

    apply: attributes, inputs and compute dtype to the output, or a list of them; UserError for an attribute and
    ValueError or TypeError for shapes it cannot take. attributes: those it reads or that change nothing here.
    parameters: what it reads beside its data, by its data; inputs: how many data it takes, None for any number.
    """

    apply: Apply
    attributes: frozenset[str] = frozenset()
    parameters: Callable[[Attributes, Value], list[Parameter]] = _none
    inputs: int | None = 1


def _identity(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    return inputs[0]


def _cast(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """A cast between floats changes nothing: the compute dtype is ours to choose."""
    attributes.choice("dtype", None, ("float16", "float32", "float64"))
    return inputs[0]


def _unary(function: Callable[[jax.Array], jax.Array]) -> Operator:
    def apply(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
        return inputs[0]._replace(array=function(inputs[0].array))

    return Operator(apply)


def _scalar(function: Callable[[jax.Array, float], jax.Array]) -> Operator:
    """An operator of the data and the number in its attribute `scalar`."""

    def apply(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
        return inputs[0]._replace(array=function(inputs[0].array, attributes.number("scalar")))

    return Operator(apply, frozenset({"scalar", "is_int"}))


def _together(inputs: Sequence[Value]) -> tuple[list[jax.Array], tuple[int, ...]]:
    """The arrays in the order of the largest of them, which is the one not to transpose, and that order."""
    order = max(inputs, key=lambda value: value.array.size).order
    return [value.stored(order) for value in inputs], order


def _binary(function: Callable[[jax.Array, jax.Array], jax.Array], *, broadcast: bool) -> Operator:
    def apply(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
        if not broadcast and inputs[0].shape != inputs[1].shape:
            raise ValueError("the shapes must be the same")
        (left, right), order = _together(inputs)
        return Value(function(left, right), order)

    return Operator(apply, inputs=2)


def _sum_all(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    if len({value.shape for value in inputs}) != 1:
        raise ValueError("the shapes must be the same")
    arrays, order = _together(inputs)
    return Value(sum(arrays[1:], start=arrays[0]), order)


_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softrelu": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
}


def _activation(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    function = _ACTIVATIONS[attributes.choice("act_type", None, tuple(_ACTIVATIONS))]
    return inputs[0]._replace(array=function(inputs[0].array))


def _clip(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    low, high = attributes.number("a_min"), attributes.number("a_max")
    return inputs[0]._replace(array=jnp.clip(inputs[0].array, low, high))


def _hard_sigmoid(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    slope, shift = attributes.number("alpha", 0.2), attributes.number("beta", 0.5)
    return inputs[0]._replace(array=jnp.clip(slope * inputs[0].array + shift, 0.0, 1.0))


_WINDOW = frozenset({"kernel", "stride", "pad", "layout", "cudnn_off"})
_CONVOLUTION = _WINDOW | {"dilate", "num_filter", "num_group", "no_bias", "workspace", "cudnn_tune"}
_POOLING = _WINDOW | {"pool_type", "global_pool", "pooling_convention", "count_include_pad"}
_BATCH_NORM = frozenset({"eps", "fix_gamma", "axis", "momentum", "use_global_stats", "output_mean_var", "cudnn_off"})
_LEAKY = frozenset({"act_type", "slope", "lower_bound", "upper_bound"})
_REDUCTION = frozenset({"axis", "keepdims", "exclude"})

_LAYERS: dict[str, Operator] = {
    "Convolution": Operator(layers.convolve, _CONVOLUTION, layers.convolution_parameters),
    "FullyConnected": Operator(layers.dense, frozenset({"num_hidden", "no_bias", "flatten"}), layers.dense_parameters),
    "BatchNorm": Operator(layers.batch_norm, _BATCH_NORM, layers.batch_norm_parameters),
    "LeakyReLU": Operator(layers.leaky_relu, _LEAKY, layers.leaky_relu_parameters),
    "Pooling": Operator(pooling.pool, _POOLING),
    "Activation": Operator(_activation, frozenset({"act_type"})),
    "Dropout": Operator(_identity, frozenset({"p", "mode", "axes", "cudnn_off"})),
    "L2Normalization": Operator(shapes.l2_normalise, frozenset({"eps", "mode"})),
    "Flatten": Operator(shapes.flatten),
    "Reshape": Operator(shapes.reshape, frozenset({"shape", "reverse"})),
    "transpose": Operator(shapes.transpose, frozenset({"axes"})),
    "SwapAxis": Operator(shapes.swap_axes, frozenset({"dim1", "dim2"})),
    "Concat": Operator(shapes.concatenate, frozenset({"dim", "num_args"}), inputs=None),
    "SliceChannel": Operator(shapes.split, frozenset({"num_outputs", "axis", "squeeze_axis"})),
    "slice_axis": Operator(shapes.slice_axis, frozenset({"axis", "begin", "end"})),
    "slice": Operator(shapes.slice_all, frozenset({"begin", "end", "step"})),
    "expand_dims": Operator(shapes.expand_dims, frozenset({"axis"})),
    "mean": Operator(shapes.reduction(jnp.mean), _REDUCTION),
    "sum": Operator(shapes.reduction(jnp.sum), _REDUCTION),
    "max": Operator(shapes.reduction(jnp.max), _REDUCTION),
    "Cast": Operator(_cast, frozenset({"dtype"})),
    "identity": Operator(_identity),
    "BlockGrad": Operator(_identity),
    "clip": Operator(_clip, frozenset({"a_min", "a_max"})),
    "hard_sigmoid": Operator(_hard_sigmoid, frozenset({"alpha", "beta"})),
    "add_n": Operator(_sum_all, frozenset({"num_args"}), inputs=None),
}

_UNARY: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "exp": jnp.exp,
    "sqrt": jnp.sqrt,
    "square": jnp.square,
    "abs": jnp.abs,
    "negative": jnp.negative,
}

_SCALAR: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    "_plus_scalar": jnp.add,
    "_minus_scalar": jnp.subtract,
    "_rminus_scalar": lambda x, scalar: scalar - x,
    "_mul_scalar": jnp.multiply,
    "_div_scalar": jnp.divide,
    "_rdiv_scalar": lambda x, scalar: scalar / x,
    "_power_scalar": jnp.power,
    "_maximum_scalar": jnp.maximum,
    "_minimum_scalar": jnp.minimum,
}

# The operators of equal shapes; those that broadcast are called otherwise.
_BINARY: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "elemwise_add": jnp.add,
    "elemwise_sub": jnp.subtract,
    "elemwise_mul": jnp.multiply,
    "elemwise_div": jnp.divide,
    "_maximum": jnp.maximum,
    "_minimum": jnp.minimum,
}
_BROADCAST: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "broadcast_add": jnp.add,
    "broadcast_sub": jnp.subtract,
    "broadcast_mul": jnp.multiply,
    "broadcast_div": jnp.divide,
    "broadcast_maximum": jnp.maximum,
    "broadcast_minimum": jnp.minimum,
}

# Other names of the same operators, of older versions for the most part.
ALIASES = {
    "Convolution_v1": "Convolution",
    "BatchNorm_v1": "BatchNorm",
    "CuDNNBatchNorm": "BatchNorm",
    "Pooling_v1": "Pooling",
    "flatten": "Flatten",
    "reshape": "Reshape",
    "concat": "Concat",
    "split": "SliceChannel",
    "swapaxes": "SwapAxis",
    "cast": "Cast",
    "_copy": "identity",
    "stop_gradient": "BlockGrad",
    "ElementWiseSum": "add_n",
    "_Plus": "elemwise_add",
    "_plus": "elemwise_add",
    "_add": "elemwise_add",
    "_Minus": "elemwise_sub",
    "_minus": "elemwise_sub",
    "_sub": "elemwise_sub",
    "_Mul": "elemwise_mul",
    "_mul": "elemwise_mul",
    "_Div": "elemwise_div",
    "_div": "elemwise_div",
    "_Maximum": "_maximum",
    "_Minimum": "_minimum",
    "broadcast_plus": "broadcast_add",
    "broadcast_minus": "broadcast_sub",
    "_PlusScalar": "_plus_scalar",
    "_MinusScalar": "_minus_scalar",
    "_RMinusScalar": "_rminus_scalar",
    "_MulScalar": "_mul_scalar",
    "_DivScalar": "_div_scalar",
    "_RDivScalar": "_rdiv_scalar",
    "_PowerScalar": "_power_scalar",
    "_MaximumScalar": "_maximum_scalar",
    "_MinimumScalar": "_minimum_scalar",
}

_CANONICAL = (
    _LAYERS
    | {name: _unary(function) for name, function in _UNARY.items()}
    | {name: _scalar(function) for name, function in _SCALAR.items()}
    | {name: _binary(function, broadcast=False) for name, function in _BINARY.items()}
    | {name: _binary(function, broadcast=True) for name, function in _BROADCAST.items()}
)
OPERATORS: dict[str, Operator] = _CANONICAL | {alias: _CANONICAL[name] for alias, name in ALIASES.items()}
