"""The operators of MXNet that move, cut, join and reduce axes; the axes are MXNet's, storage stays where it can."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advcloak_jax.networks.layers import Dtype
from advcloak_jax.recognizers.mxnet.attributes import Attributes
from advcloak_jax.recognizers.mxnet.values import Value


def flatten(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """[B, C, H, W] -> [B, C * H * W], channels outermost."""
    x = inputs[0].plain()
    return Value.of(x.reshape(x.shape[0], -1))


def reshape(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """Reshape with MXNet's codes, see `target_shape`."""
    if attributes.flag("reverse", False):
        attributes.refuse("reverse", "False")
    x = inputs[0].plain()
    return Value.of(x.reshape(target_shape(x.shape, attributes.integers("shape"))))


def target_shape(shape: tuple[int, ...], codes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that MXNet's Reshape `codes` make of `shape`.

    0 keeps an axis, -1 is what is left, -2 keeps all further axes, -3 merges two, -4 splits one into the two numbers
    after it. ValueError where they do not fit.
    """
    axes, wanted = list(shape), list(codes)
    made: list[int] = []
    while wanted:
        code = wanted.pop(0)
        if code == -2:
            made += axes
            axes = []
        elif code == -3:
            made.append(_next(axes) * _next(axes))
        elif code == -4:
            whole, left, right = _next(axes), _next(wanted), _next(wanted)
            left = whole // right if left == -1 else left
            made += [left, whole // left if right == -1 else right]
        elif code == 0:
            made.append(_next(axes))
        elif code == -1 or code > 0:
            made.append(code)
            axes = axes[1:]
        else:
            raise ValueError(f"{code} is no code of Reshape")
    if made.count(-1) == 1:
        made[made.index(-1)] = math.prod(shape) // -math.prod(made)
    if min(made, default=0) < 1 or math.prod(made) != math.prod(shape):
        raise ValueError(f"{shape} cannot be reshaped to {codes}")
    return tuple(made)


def _next(values: list[int]) -> int:
    if not values or values[0] == 0:
        raise ValueError("the codes of Reshape do not fit the shape")
    return values.pop(0)


def transpose(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """Transposed by name only: the stored array stays."""
    dimensions = len(inputs[0].order)
    axes = attributes.integers("axes", ()) or tuple(reversed(range(dimensions)))
    if sorted(axes) != list(range(dimensions)):
        raise ValueError(f"{axes} does not order {dimensions} axes")
    return inputs[0]._replace(order=tuple(axes.index(axis) for axis in inputs[0].order))


def swap_axes(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """Two axes exchanged, by name only."""
    order = list(inputs[0].order)
    first, second = (inputs[0].axis(attributes.integer(key, 0)) for key in ("dim1", "dim2"))
    order[first], order[second] = order[second], order[first]
    return inputs[0]._replace(order=tuple(order))


def concatenate(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """Joined along the axis `dim`, 1 unless told."""
    first = inputs[0]
    arrays = [value.stored(first.order) for value in inputs]
    return first._replace(array=jnp.concatenate(arrays, first.axis(attributes.integer("dim", 1))))


def split(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> list[Value]:
    """SliceChannel: equal parts along an axis, which `squeeze_axis` drops when the parts are of length 1."""
    data, parts = inputs[0], attributes.integer("num_outputs")
    axis = data.axis(attributes.integer("axis", 1))
    if parts < 1 or data.array.shape[axis] % parts:
        raise ValueError(f"{data.array.shape[axis]} cannot be cut into {parts} equal parts")
    values = [data._replace(array=part) for part in jnp.split(data.array, parts, axis)]
    if not attributes.flag("squeeze_axis", False):
        return values
    if data.array.shape[axis] != parts:
        raise ValueError("only an axis of length 1 can be dropped")
    return [_drop(value.array.squeeze(axis), value.order, {value.order[axis]}) for value in values]


def slice_axis(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """begin:end along one axis, as Python slices."""
    data = inputs[0]
    end = attributes.integer("end") if attributes.has("end") else None
    return _sliced(data, {attributes.integer("axis"): slice(attributes.integer("begin"), end)})


def slice_all(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """begin:end:step along the first axes, as Python slices."""
    begin, end, step = (attributes.bounds(key, ()) for key in ("begin", "end", "step"))
    if len(begin) != len(end) or len(step) not in (0, len(begin)):
        raise ValueError("begin, end and step must be of one length")
    return _sliced(inputs[0], {i: slice(begin[i], end[i], step[i] if step else None) for i in range(len(begin))})


def _sliced(data: Value, slices: dict[int, slice]) -> Value:
    chosen = [slice(None)] * len(data.order)
    for axis, part in slices.items():
        chosen[data.axis(axis)] = part
    array = data.array[tuple(chosen)]
    if 0 in array.shape:
        raise ValueError("the slice is empty")
    return data._replace(array=array)


def expand_dims(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """A new axis of length 1."""
    return Value.of(jnp.expand_dims(inputs[0].plain(), attributes.integer("axis")))


def _drop(array: jax.Array, order: tuple[int, ...], dropped: set[int]) -> Value:
    """`array`, which has lost the MXNet axes `dropped` of `order`."""
    kept = [axis for axis in order if axis not in dropped]
    return Value(array, tuple(sorted(kept).index(axis) for axis in kept))


def reduction(function: Callable[..., jax.Array]) -> Callable[[Attributes, Sequence[Value], Dtype], Value]:
    """An operator that reduces `axis` (none: all; with `exclude`: all but it), in float32 inside."""

    def apply(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
        data = inputs[0]
        named = {data.order[data.axis(axis)] for axis in attributes.integers("axis", ())}
        if attributes.flag("exclude", False) or not named:
            named = set(data.order) - named
        keep = attributes.flag("keepdims", False)
        axes = tuple(data.order.index(axis) for axis in sorted(named))
        made = function(data.array.astype(jnp.float32), axis=axes, keepdims=keep).astype(data.array.dtype)
        return data._replace(array=made) if keep else _drop(made, data.order, named)

    return apply


def l2_normalise(attributes: Attributes, inputs: Sequence[Value], dtype: Dtype) -> Value:
    """x / sqrt(sum of x^2 + eps), the sum over all of an image, its channels or its pixels; float32 inside."""
    data, dimensions = inputs[0], len(inputs[0].order)
    over: dict[str, Any] = {"instance": range(1, dimensions), "channel": (1,), "spatial": range(2, dimensions)}
    mode = attributes.choice("mode", "instance", tuple(over))
    x = data.array.astype(jnp.float32)
    squared = jnp.square(x).sum(tuple(data.axis(axis) for axis in over[mode]), keepdims=True)
    return data._replace(array=(x * jax.lax.rsqrt(squared + attributes.number("eps", 1e-10))).astype(data.array.dtype))
