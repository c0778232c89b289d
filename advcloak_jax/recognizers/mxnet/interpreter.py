"""An MXNet symbol applied to images, node after node."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.errors import UserError
from advcloak_jax.networks.layers import Dtype
from advcloak_jax.recognizers.mxnet import layers
from advcloak_jax.recognizers.mxnet.operators import OPERATORS
from advcloak_jax.recognizers.mxnet.symbol import INPUT, VARIABLE, Node, Symbol
from advcloak_jax.recognizers.mxnet.values import CHANNELS_LAST, Parameter, Value, plain

Variable = Callable[[str, Parameter], jax.Array]
"""The stored array of a variable, by its name and what it must be."""


def run(
    symbol: Symbol,
    images: jax.Array,
    variable: Variable,
    dtype: Dtype = jnp.float32,
    convolved: Callable[[jax.Array], jax.Array] | None = None,
) -> Value:
    """The symbol's output for `images` [B, H, W, 3] as its graph wants them.

    Convolutions and dense layers compute in `dtype`, everything before the first of them in the images' dtype.
    `convolved` is applied to what every convolution of more than one pixel gives, [B, h, w, C].
    Raises UserError for a node whose operator cannot take its inputs.
    """
    data = Value(images, CHANNELS_LAST)
    values: dict[tuple[int, int], Value] = {
        (number, 0): data for number, node in enumerate(symbol.nodes) if node.op == VARIABLE and node.name == INPUT
    }
    for number, node in enumerate(symbol.nodes):
        if node.op == VARIABLE:
            continue  # made by the first operator that reads it, which alone knows its shape
        try:
            made = _apply(symbol, node, values, variable, dtype)
        except (TypeError, ValueError, IndexError) as error:
            shapes = [list(values[source].shape) for source in node.inputs if source in values]
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the MXNet node '{node.name}' ({node.op}) cannot take inputs of shapes {shapes}: {reason}."
            ) from error
        if convolved is not None and _is_spatial(node):
            made = [value._replace(array=convolved(value.array)) for value in made]
        values |= {(number, part): value for part, value in enumerate(made)}
    if symbol.output not in values:
        raise UserError(f"the MXNet node '{symbol.nodes[symbol.output[0]].name}' has no output {symbol.output[1]}.")
    return values[symbol.output]


def _is_spatial(node: Node) -> bool:
    """Whether the node is a convolution of more than one pixel."""
    return OPERATORS[node.op].apply is layers.convolve and max(layers.pair(node.attributes, "kernel")) > 1


def _apply(
    symbol: Symbol, node: Node, values: dict[tuple[int, int], Value], variable: Variable, dtype: Dtype
) -> list[Value]:
    """The outputs of one node; variables that it is the first to read are added to `values`."""
    operator = OPERATORS[node.op]
    first = _value(symbol, node.inputs[0], values, variable)
    wanted = operator.parameters(node.attributes, first)
    if operator.inputs is not None and len(node.inputs) != operator.inputs + len(wanted):
        raise ValueError(f"it should have {operator.inputs + len(wanted)} inputs, not {len(node.inputs)}")
    expected = dict(zip(node.inputs[operator.inputs :], wanted, strict=True)) if wanted else {}
    inputs = [_value(symbol, source, values, variable, expected.get(source)) for source in node.inputs]
    made = operator.apply(node.attributes, inputs, dtype)
    return made if isinstance(made, list) else [made]


def _value(
    symbol: Symbol,
    source: tuple[int, int],
    values: dict[tuple[int, int], Value],
    variable: Variable,
    parameter: Parameter | None = None,
) -> Value:
    """The value of an earlier node's output. A new variable is what `parameter` or its own attribute says it is."""
    if source not in values:
        node = symbol.nodes[source[0]]
        if node.op != VARIABLE or source[1] != 0:
            raise ValueError(f"'{node.name}' has no output {source[1]}")
        if parameter is None:
            shape = node.attributes.integers("__shape__")
            if not shape or min(shape) < 1:
                node.attributes.refuse("__shape__", "a full shape")
            parameter = Parameter(shape, plain(len(shape)), "params", nn.initializers.ones)
        values[source] = Value(variable(node.name, parameter), parameter.order)
    value = values[source]
    if parameter is not None and value.shape != parameter.shape:
        raise ValueError(f"'{symbol.nodes[source[0]].name}' should have the shape {list(parameter.shape)}")
    return value
