"""What happens to a recogniser's feature maps from outside: dropout (DFANet), or being looked at.

A feature map is what a convolution of more than one pixel gives (3x3, 1x7, depthwise ones too), before its norm and
activation, as long as it has more than one pixel itself. In an IR network these are the maps of the stem and of both
convolutions of every unit, as in the released DFANet code; 1x1 shortcuts, squeeze-and-excitation and a global depthwise
layer are none. Networks of the zoo and imported MXNet graphs are treated alike.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.recognizers.layers import DepthwiseConv
from advcloak_jax.recognizers.mxnet.graph import MxnetGraph
from advcloak_jax.recognizers.recognizer import Recognizer

Change = Callable[[jax.Array], jax.Array]
_RANDOM_VALUES = 1 << 16


@contextlib.contextmanager
def changed(change: Change) -> Iterator[None]:
    """While tracing inside this context, every feature map [B, h, w, C] of every recogniser becomes `change(map)`."""

    def interceptor(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        made = call(*args, **kwargs)
        return change(made) if _makes_a_map(context) and min(made.shape[1:3]) > 1 else made

    with nn.intercept_methods(interceptor):
        yield


def _makes_a_map(context: nn.module.InterceptorContext) -> bool:
    module, method = context.module, context.method_name
    if isinstance(module, MxnetGraph):
        return method == "convolved"
    if method != "__call__":
        return False
    if isinstance(module, nn.Conv):
        size = module.kernel_size
        return (size if isinstance(size, int) else max(size)) > 1
    return isinstance(module, DepthwiseConv)


def dropout(keys: jax.Array, rate: float) -> Change:
    """Dropout of feature maps [P * N, h, w, C]: each value is 0 with probability `rate`, else divided by 1 - rate.

    keys [P], one per person, so that what a person's N images get does not depend on who else is in the batch. Every
    map draws anew.
    """
    number = 0

    def change(values: jax.Array) -> jax.Array:
        nonlocal number
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        number += 1
        drawn = _halves(own, math.prod(values.shape) // len(keys)).reshape(values.shape)
        return jnp.where(drawn >= round(rate * _RANDOM_VALUES), values / (1 - rate), 0)

    return change


def _halves(keys: jax.Array, count: int) -> jax.Array:
    """`count` uniform numbers of 16 bits for each key, [P, count] uint32: two of every word drawn.

    `jax.random.bits` draws a word for each number of 16 bits, which took as long as the network on CPUs.
    """
    words = jax.vmap(lambda key: jax.random.bits(key, (-(-count // 2),), jnp.uint32))(keys)
    return jnp.concatenate([words & (_RANDOM_VALUES - 1), words >> 16], axis=-1)[:, :count]


def first_maps(recognizer: Recognizer, images: jax.Array, count: int) -> list[jax.Array]:
    """The first `count` feature maps [B, h, w, C] of images [B, H, W, 3] in [0, 1], fewer where there are no more."""
    maps: list[jax.Array] = []

    def keep(values: jax.Array) -> jax.Array:
        if len(maps) < count:
            maps.append(values)
        return values

    with changed(keep):
        recognizer(images)
    return maps
