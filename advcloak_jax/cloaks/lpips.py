"""LPIPS with AlexNet (Zhang et al., CVPR 2018): how different two images look to people.

Its weights come in two files, neither of them ours to hand on: torchvision's AlexNet, and the five linear layers that
were fitted to human judgement (weights/v0.1/alex.pth of the package lpips).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.networks.convolution import convolution
from advcloak_jax.recognizers.weights.reader import read_weights

_SHIFT = np.array((-0.030, -0.088, -0.188), np.float32)
_SCALE = np.array((0.458, 0.448, 0.450), np.float32)
_TINY = 1e-10


class _Layer(NamedTuple):
    """A convolution of AlexNet: its number in torchvision's `features`, its sizes, and whether pooling precedes it."""

    number: int
    shape: tuple[int, int, int, int]
    stride: int
    padding: int
    pooled: bool


_LAYERS = (
    _Layer(0, (64, 3, 11, 11), 4, 2, False),
    _Layer(3, (192, 64, 5, 5), 1, 2, True),
    _Layer(6, (384, 192, 3, 3), 1, 1, True),
    _Layer(8, (256, 384, 3, 3), 1, 1, False),
    _Layer(10, (256, 256, 3, 3), 1, 1, False),
)


class Lpips(NamedTuple):
    """Kernels [k, k, I, O] and biases [O] of the five convolutions, and the weight of every channel [O]."""

    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]
    heads: tuple[jax.Array, ...]


def read(alexnet: Path, heads: Path) -> Lpips:
    """The network of two files of weights. Raises UserError when a file cannot be read or lacks a tensor."""
    backbone, fitted = read_weights(alexnet), read_weights(heads)
    # A file of the convolutions alone has lost what all its names begin with.
    prefix = "" if f"{_LAYERS[0].number}.weight" in backbone else "features."
    kernels, biases, channels = [], [], []
    for place, layer in enumerate(_LAYERS):
        name = f"{prefix}{layer.number}"
        kernels.append(jnp.asarray(_tensor(backbone, f"{name}.weight", layer.shape, alexnet).transpose(2, 3, 1, 0)))
        biases.append(jnp.asarray(_tensor(backbone, f"{name}.bias", layer.shape[:1], alexnet)))
        shape = (1, layer.shape[0], 1, 1)
        channels.append(jnp.asarray(_tensor(fitted, f"lin{place}.model.1.weight", shape, heads).reshape(-1)))
    return Lpips(tuple(kernels), tuple(biases), tuple(channels))


def _tensor(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], where: Path) -> np.ndarray:
    if name not in tensors:
        raise UserError(f"{where} lacks the tensor '{name}' {list(shape)}; give alexnet= and lpips= the right files.")
    if tensors[name].shape != shape:
        raise UserError(f"{where} has '{name}' of shape {list(tensors[name].shape)} instead of {list(shape)}.")
    return tensors[name].astype(np.float32)


def distance(network: Lpips, originals: jax.Array, images: jax.Array) -> jax.Array:
    """LPIPS [B] of images [B, H, W, 3] in [0, 1] to their originals. ValueError for images too small for AlexNet."""
    total = jnp.zeros(len(images))
    for before, after, head in zip(_maps(network, originals), _maps(network, images), network.heads, strict=True):
        total += jnp.mean(jnp.square(unit_channels(after) - unit_channels(before)) @ head, (1, 2))
    return total


def _maps(network: Lpips, images: jax.Array) -> list[jax.Array]:
    """What the five convolutions give, [B, h, w, C], behind their ReLUs."""
    x, found = (2 * images - 1 - _SHIFT) / _SCALE, []
    for layer, kernel, bias in zip(_LAYERS, network.kernels, network.biases, strict=True):
        if layer.pooled:
            if min(x.shape[1:3]) < 3:
                raise ValueError("LPIPS needs images of 31 pixels a side or more")
            x = nn.max_pool(x, (3, 3), (2, 2))
        x = nn.relu(convolution(x, kernel, layer.stride, layer.padding) + bias)
        found.append(x)
    return found


def unit_channels(values: jax.Array) -> jax.Array:
    """Feature maps [B, h, w, C] of unit length across channels, float32."""
    squares = jnp.sum(jnp.square(values.astype(jnp.float32)), -1, keepdims=True)
    return values * jax.lax.rsqrt(squares + _TINY)
