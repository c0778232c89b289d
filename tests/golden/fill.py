"""Weights and inputs that PyTorch twins and Flax networks both make from a tensor's name, so that none are stored."""

import zlib
from collections.abc import Iterator, Mapping

import numpy as np


def uniform(name: str, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Float32 in [low, high), from Philox's raw bits (stable across NumPy versions) keyed by the name."""
    count = int(np.prod(shape, dtype=np.int64))
    bits = np.random.Philox(key=zlib.crc32(name.encode())).random_raw((count + 1) // 2).view(np.uint32)[:count]
    unit = (bits >> 8).astype(np.float32) * np.float32(2.0**-24)
    return (low + (high - low) * unit).reshape(shape).astype(np.float32)


def images(name: str, batch: int, size: int) -> np.ndarray:
    """[B, size, size, 3] float32 in [0, 1): smooth shades plus noise."""
    coarse = uniform(name + ".coarse", (batch, 4, 4, 3), 0.2, 0.8)
    smooth = coarse.repeat(size // 4, 1).repeat(size // 4, 2)
    return smooth + uniform(name + ".noise", smooth.shape, -0.2, 0.2)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A PyTorch tensor called `name`, scaled so that activations stay of order one."""
    if name.endswith("running_var"):
        return uniform(name, shape, 0.5, 1.5)
    if name.endswith(("running_mean", "bias")):
        return uniform(name, shape, -0.2, 0.2)
    if name.endswith("res_layer.4.weight"):  # the end of a residual branch: small, or depth multiplies
        return uniform(name, shape, 0.1, 0.4)
    if len(shape) == 1:
        return uniform(name, shape, 0.3, 1.1)
    if len(shape) == 3:
        return uniform(name, shape, -0.1, 0.1)
    # Kaiming's bound for a uniform distribution.
    return uniform(name, shape) * np.float32((6.0 / np.prod(shape[1:])) ** 0.5)


class State(Mapping[str, np.ndarray]):
    """A state dict made on demand: any name of `shapes` gives its `tensor`."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def __getitem__(self, name: str) -> np.ndarray:
        return tensor(name, self.shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
