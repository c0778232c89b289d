"""Floating-point operations of networks and steps, from the shapes of their convolutions and products.

A multiplication and its addition count as two; elementwise layers, norms and optimisers are left out, as is usual for
model FLOPs. What a compiled program does beside is not counted either: rematerialisation, products with padded zeros.
"""

import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

BACKWARD = 2
"""A layer's backward pass has two such products: by its input and by its weights."""


def forward(module: nn.Module, size: int) -> float:
    """Of one image [size, size, 3] through a network in evaluation mode."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(lambda key, image: module.init(key, image, train=False), jax.random.key(0), image)
    traced = jax.make_jaxpr(lambda variables, image: module.apply(variables, image, train=False))(variables, image)
    return sum(map(_of_equation, _equations(traced.jaxpr)))


def recognizer_step(backbone: float, feature_size: int, classes: int, images: int) -> float:
    """Of a step over so many images, from those of a forward pass: backbone and classifier, forward and backward."""
    return images * (1 + BACKWARD) * (backbone + 2 * feature_size * classes)


def gan_step(generator: float, discriminator: float, surrogate: float, images: int) -> float:
    """Of a step of stage I or II over so many images, from those of a forward pass.

    G forward and backward; D forward and backward on the original and the protected image; D and the surrogate forward
    and by their input alone. That no first layer needs its input's gradient when its weights are learnt is left out.
    """
    learnt, passed = 1 + BACKWARD, 2
    return images * (learnt * generator + (2 * learnt + passed) * discriminator + passed * surrogate)


def universal_step(generator: float, surrogate: float, images: int) -> float:
    """Of a step of the universal mask: one pass of G, the surrogate on every image, forward and by its input."""
    return (1 + BACKWARD) * generator + images * 2 * surrogate


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations, those inside of others in place of these; a depthwise convolution stays one."""
    for equation in jaxpr.eqns:
        inner = [
            value for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr) if _is_jaxpr(value)
        ]
        if not inner or _is_depthwise(equation):
            yield equation
        for one in inner if not _is_depthwise(equation) else []:
            yield from _equations(getattr(one, "jaxpr", one))


def _of_equation(equation: Any) -> float:
    if _is_depthwise(equation):
        kernel = equation.invars[1].aval.shape
        return 2.0 * equation.outvars[0].aval.size * kernel[0] * kernel[1]
    if equation.primitive.name == "conv_general_dilated":
        return of_convolution(equation)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    return 0.0


def of_convolution(equation: Any) -> float:
    """Of a `conv_general_dilated` equation, without the products with the zeros of padding and dilation."""
    parameters = equation.params
    (image, kernel), made = ([one.aval.shape for one in equation.invars], equation.outvars[0].aval.shape)
    numbers = parameters["dimension_numbers"]
    products = made[numbers.out_spec[0]] * made[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    for axis in range(len(image) - 2):
        taps = np.arange(kernel[numbers.rhs_spec[2 + axis]]) * parameters["rhs_dilation"][axis]
        starts = np.arange(made[numbers.out_spec[2 + axis]]) * parameters["window_strides"][axis]
        places = starts[:, None] + taps - parameters["padding"][axis][0]
        spacing = parameters["lhs_dilation"][axis]
        inside = (places >= 0) & (places <= (image[numbers.lhs_spec[2 + axis]] - 1) * spacing) & (places % spacing == 0)
        products *= int(inside.sum())
    return 2.0 * products


def _is_depthwise(equation: Any) -> bool:
    """Whether an equation is a call of `recognizers.depthwise.depthwise`, a sum of products in XLA's eyes."""
    called = equation.params.get("call_jaxpr")
    return called is not None and called.jaxpr.debug_info.func_name == "depthwise"


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
