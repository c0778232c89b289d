"""FLOP and bytes of networks and steps: in closed form from the published layers, and from any traced function.

A multiply-add is two FLOP. Only convolutions and matrix products count; what lies between them is less than a
hundredth of the arithmetic. Bytes are those that each of them must read and write when everything between is fused.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.interpreters import partial_eval

from advcloak_jax.training import flops
from benchmarks.sizes import Size


class Count(NamedTuple):
    """FLOP, and bytes between memory and arithmetic."""

    flop: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Count") -> "Count":  # type: ignore[override]
        return Count(self.flop + other.flop, self.bytes + other.bytes)

    def times(self, factor: float) -> "Count":
        """So many of it."""
        return Count(self.flop * factor, self.bytes * factor)


class Layer(NamedTuple):
    """A convolution [k, k, inputs, outputs] that makes maps of `side` x `side`; a dense layer has side and k of 1."""

    side: int
    kernel: int
    inputs: int
    outputs: int

    @property
    def macs(self) -> int:
        """Multiply-adds for an image, counting those with padding."""
        return self.side**2 * self.kernel**2 * self.inputs * self.outputs


def generator_layers(size: Size, blocks: int = 3) -> list[Layer]:
    """The generator's layers; a transposed convolution of stride 2 and kernel 4 has 2x2 taps for each output pixel."""
    side, width = size.image, size.generator
    encoder = [
        Layer(side, 7, 3, width),
        Layer(side // 2, 4, width, 2 * width),
        Layer(side // 4, 4, 2 * width, 4 * width),
    ]
    decoder = [
        Layer(side // 2, 2, 4 * width, 2 * width),
        Layer(side, 2, 2 * width, width),
        Layer(side, 7, width, 3),
    ]
    return [*encoder, *[Layer(side // 4, 3, 4 * width, 4 * width)] * (2 * blocks), *decoder]


def discriminator_layers(size: Size) -> list[Layer]:
    """The discriminator's layers."""
    layers, side, inputs = [], size.image, 3
    for i, kernel in enumerate((4, 4, 4, 4, 3)):
        side = (side + 2 - kernel) // 2 + 1
        layers.append(Layer(side, kernel, inputs, size.discriminator * 2**i))
        inputs = size.discriminator * 2**i
    return [*layers, Layer(side, 1, inputs, 1)]


def surrogate_layers(size: Size) -> list[Layer]:
    """An improved residual network's layers (face.evoLVe's units)."""
    side, inputs = size.image, size.channels[0]
    layers = [Layer(side, 3, 3, inputs)]
    for channels, units in zip(size.channels, size.units, strict=True):
        for unit in range(units):
            layers.append(Layer(side, 3, inputs, channels))
            if unit == 0:
                side = -(-side // 2)
                if inputs != channels:
                    layers.append(Layer(side, 1, inputs, channels))
            layers.append(Layer(side, 3, channels, channels))
            inputs = channels
    return [*layers, Layer(1, 1, inputs * side**2, size.embedding)]


def macs(layers: list[Layer]) -> int:
    """Multiply-adds of one forward pass for an image."""
    return sum(layer.macs for layer in layers)


def step_flop(size: Size) -> float:
    """FLOP that a step of either stage needs for an image, the originals' embeddings being known.

    Generator: forward, gradients of weights and of inputs (not of the first layer's). Surrogate: forward and gradients
    of inputs. Discriminator: its own step (two images forward and backward, without the gradient of the images), then
    forward and gradients of inputs. The subspaces cost less than a thousandth.
    """
    generator, discriminator = generator_layers(size), discriminator_layers(size)
    made = 3 * macs(generator) - generator[0].macs
    made += 2 * macs(surrogate_layers(size))
    made += 2 * (3 * macs(discriminator) - discriminator[0].macs) + 2 * macs(discriminator)
    return 2.0 * made


def traced(function: Callable[..., Any], *arguments: Any) -> Count:
    """Count of one call of a function, from its trace without what nothing depends on: no compiler has a say in it."""
    whole = jax.make_jaxpr(function)(*arguments).jaxpr
    needed, _ = partial_eval.dce_jaxpr(whole, [True] * len(whole.outvars))
    return _of_jaxpr(needed)


def _of_jaxpr(jaxpr: Any) -> Count:
    total = Count()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            total += _of_product(equation)
            continue
        inner = [_of_jaxpr(part) for part in _parts(equation.params)]
        if equation.primitive.name == "cond":  # one branch is taken
            total += max(inner, key=lambda count: count.flop)
        else:
            found = sum(inner, Count())
            total += found.times(equation.params.get("length", 1) if equation.primitive.name == "scan" else 1)
    return total


def _parts(params: dict[str, Any]) -> Iterator[Any]:
    """Programs inside an operation: of loops, calls, branches. A custom gradient's rules are not run by the call."""
    for name, value in params.items():
        if name in ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun"):
            continue
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _of_product(equation: Any) -> Count:
    left, right = (variable.aval for variable in equation.invars)
    made = equation.outvars[0].aval
    moved = sum(math.prod(value.shape) * value.dtype.itemsize for value in (left, right, made))
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = math.prod(left.shape[i] for i in contracted)
        return Count(2.0 * math.prod(made.shape) * depth, moved)
    return Count(flops.of_convolution(equation), moved)
