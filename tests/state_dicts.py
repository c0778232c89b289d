"""PyTorch state dicts for Flax networks: which shapes they have, and variables filled as the PyTorch twins are."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from golden.fill import State

from advcloak_jax.networks.torch_weights import TorchLayer, load


def shapes_of(module: nn.Module, height: int, width: int | None = None) -> dict[str, Any]:
    """Shapes of the variables for images of that height and width (None: square)."""
    images = jnp.zeros((1, height, width or height, 3))
    return jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))


def torch_shapes(shapes: Mapping[str, Any], layers: Mapping[str, TorchLayer]) -> dict[str, tuple[int, ...]]:
    """The PyTorch shapes of the tensors that the Flax `shapes` ask for."""
    found = {}
    for path, leaf in flax.traverse_util.flatten_dict(dict(shapes)).items():
        layer = layers["/".join(path[1:-1])]
        shape = tuple(leaf.shape)
        if layer.kind != "parameter":
            order = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[len(shape)]
            shape = tuple(shape[i] for i in order)
        found[layer.tensor(path[-1])] = shape
    return found


def filled(module: nn.Module, size: int, layers: Mapping[str, TorchLayer], side: int | None = None) -> dict[str, Any]:
    """Variables filled by the tensors' names; side: of the map that is flattened (None: a sixteenth of the image)."""
    shapes = shapes_of(module, size)
    spatial = (side or -(-size // 16),) * 2
    return load(shapes, State(torch_shapes(shapes, layers)), layers, spatial=spatial)
