"""PyTorch's twins of our networks, and their weights as ours. Needs requirements-peers.txt."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from advcloak_jax.networks.torch_weights import discriminator_layers, generator_layers, load
from advcloak_jax.recognizers.torch_names.iresnet import arcface_layers, iresnet_layers

sys.path.append(str(Path(__file__).parents[2] / "tests" / "golden"))

import twins
import twins_iresnet_vit

Tensors = dict[str, np.ndarray]


class Networks(NamedTuple):
    """What a stage trains and trains against."""

    generator: nn.Module
    discriminator: nn.Module
    surrogate: nn.Module


class Backbone(NamedTuple):
    """Sizes of a residual recogniser; channels of its four stages, of which the first is the stem's too."""

    units: tuple[int, ...]
    channels: tuple[int, ...]
    embedding: int
    layout: str = "evolve"


def make(generator_width: int, discriminator_width: int, backbone: Backbone, size: int, seed: int = 0) -> Networks:
    """Fresh networks, with running statistics that a trained recogniser might have."""
    torch.manual_seed(seed)
    generator = twins.Generator(generator_width, size)
    for module in generator.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.LayerNorm):
            nn.init.kaiming_normal_(module.weight)
    surrogate = make_backbone(backbone, size, seed)
    return Networks(generator, twins.Discriminator(discriminator_width), surrogate)


def make_backbone(backbone: Backbone, size: int, seed: int = 0) -> nn.Module:
    """A fresh recogniser whose last batch norm of every residual branch is small, as training makes it."""
    torch.manual_seed(seed)
    kind = twins.IResNet if backbone.layout == "evolve" else twins_iresnet_vit.ArcFaceIResNet
    network = kind(size, backbone.units, backbone.channels, backbone.embedding)
    for name, module in network.named_modules():
        if name.endswith(("res_layer.4", "bn3")):
            nn.init.constant_(module.weight, 0.3)
    return network


def tensors(network: nn.Module) -> Tensors:
    """State dict as NumPy arrays of their own."""
    return {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}


def parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(value.numel() for value in network.parameters())


def to_flax(module: Any, network: nn.Module, size: int, kind: str, units: tuple[int, ...] = ()) -> Any:
    """Variables of our `module` with the weights of its twin; kind: "generator", "discriminator" or a layout."""
    layers = {
        "generator": generator_layers,
        "discriminator": discriminator_layers,
        "evolve": lambda: iresnet_layers(units),
        "arcface_torch": lambda: arcface_layers(units),
    }[kind]()
    faces = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(lambda key, faces: module.init(key, faces, train=False), jax.random.key(0), faces)
    side = -(-size // 16)
    return load(shapes, tensors(network), layers, (side, side))


def to_nchw(faces: np.ndarray | jax.Array, device: str = "cpu") -> torch.Tensor:
    """[B, H, W, C] to PyTorch's [B, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(faces), -1, 1))).to(device)
