"""PyTorch state dicts into Flax variables: which tensor goes where, and in which layout."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np

from advcloak_jax.errors import UserError

TENSOR_OF_LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


class TorchLayer(NamedTuple):
    """Where a Flax layer's tensors are in a state dict, and what its kernel is there.

    kind: "" for a layer whose kernel's shape tells its layout, "transposed" for a transposed convolution, "flattened"
    for a dense layer that reads a flattened feature map, "pointwise" for a dense layer that is a 1x1 convolution there,
    "parameter" for a tensor of its own, kept as it is.
    """

    name: str
    kind: str = ""

    def tensor(self, leaf: str) -> str:
        """Name in the state dict of the tensor that Flax calls `leaf` ("kernel", "scale", ...)."""
        return self.name if self.kind == "parameter" else f"{self.name}.{TENSOR_OF_LEAF[leaf]}"


def to_flax_layout(tensor: np.ndarray, kind: str = "", spatial: tuple[int, int] = (1, 1)) -> np.ndarray:
    """One PyTorch tensor in Flax's layout.

    Convolution [O, I, kh, kw] -> [kh, kw, I, O] (depthwise too); transposed convolution [I, O, kh, kw] ->
    [kh, kw, I, O] with its taps flipped; LayerNorm (C, H, W) -> (H, W, C); dense [O, I] -> [I, O], its inputs
    reordered from C, H, W to H, W, C (H, W = `spatial`) if it is "flattened"; "pointwise" [O, I, 1, 1] -> [I, O];
    vectors and a "parameter" stay.
    """
    if kind == "parameter":
        return tensor
    if kind == "pointwise":
        return tensor.reshape(tensor.shape[:2]).T
    if tensor.ndim == 4:
        if kind == "transposed":
            return tensor.transpose(2, 3, 0, 1)[::-1, ::-1]
        return tensor.transpose(2, 3, 1, 0)
    if tensor.ndim == 3:
        return tensor.transpose(1, 2, 0)
    if tensor.ndim == 2:
        if kind == "flattened":
            maps = tensor.reshape(tensor.shape[0], -1, *spatial)
            tensor = maps.transpose(0, 2, 3, 1).reshape(tensor.shape)
        return tensor.T
    return tensor


def load(
    template: Mapping[str, Any],
    state: Mapping[str, Any],
    layers: Mapping[str, TorchLayer],
    spatial: tuple[int, int] = (1, 1),
) -> dict[str, Any]:
    """Variables shaped like `template`, filled from the state dict `state`.

    template: Flax variables or their shapes (`jax.eval_shape` of `init`); layers: Flax layer path ("block_0/conv_0")
    to its PyTorch layer; spatial: height and width of the feature map that the first dense layer flattens.
    Raises UserError for a tensor that is missing or has another shape; tensors nobody asks for are ignored.
    """
    filled = {}
    for path, leaf in flax.traverse_util.flatten_dict(dict(template)).items():
        layer = layers["/".join(path[1:-1])]
        name = layer.tensor(path[-1])
        if name not in state:
            raise UserError(f"the PyTorch weights have no tensor '{name}': choose the architecture they belong to.")
        tensor = np.asarray(state[name], np.float32)
        is_flattened = layer.kind == "flattened" and tensor.ndim == 2
        if is_flattened and tensor.shape[1] % (spatial[0] * spatial[1]):
            raise UserError(
                f"the PyTorch tensor '{name}' {tensor.shape} does not read {spatial} maps: set the image size."
            )
        value = to_flax_layout(tensor, layer.kind, spatial)
        if value.shape != tuple(leaf.shape):
            raise UserError(
                f"the PyTorch tensor '{name}' is {value.shape} in Flax's layout where {tuple(leaf.shape)} is needed: "
                "choose the architecture, width and image size the weights belong to."
            )
        filled[path] = np.ascontiguousarray(value)
    return flax.traverse_util.unflatten_dict(filled)


def generator_layers(blocks: int = 3) -> dict[str, TorchLayer]:
    """Layers of `Generator` in a PyTorch twin of three sequences: encoder, blocks, decoder."""
    layers = {f"encode_{i}": TorchLayer(f"encoder.{3 * i}") for i in range(3)}
    for block in range(blocks):
        for i in range(2):
            layers[f"block_{block}/conv_{i}"] = TorchLayer(f"blocks.{block}.body.{4 * i + 1}")
            layers[f"block_{block}/norm_{i}"] = TorchLayer(f"blocks.{block}.body.{4 * i + 2}")
    for i in range(2):
        layers[f"decode_{i}"] = TorchLayer(f"decoder.{3 * i}", "transposed")
        layers[f"decode_norm_{i}"] = TorchLayer(f"decoder.{3 * i + 1}")
    layers["output"] = TorchLayer("decoder.6", "transposed")
    return layers


def discriminator_layers() -> dict[str, TorchLayer]:
    """Layers of `Discriminator` in a PyTorch twin with lists of convolutions and norms."""
    layers = {"output": TorchLayer("output")}
    for i in range(5):
        layers[f"conv_{i}"] = TorchLayer(f"convs.{i}")
        layers[f"norm_{i}"] = TorchLayer(f"norms.{i}")
    return layers
