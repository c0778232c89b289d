"""A published naming of tensors: how to tell it from others, and which of our layers each tensor belongs to."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from advcloak_jax.networks.torch_weights import TorchLayer
from advcloak_jax.recognizers.convention import Convention

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every tensor of a state dict by its name."""


class Match(NamedTuple):
    """What a state dict of a known layout holds.

    architecture: name in the zoo; fields: what `zoo.build` needs beside it (width, embedding_size, ...); layers: our
    layer's path to its PyTorch layer; image_size: (height, width) of the network's input; spatial: of the map that the
    first dense layer flattens; ignored: patterns (`re.fullmatch`) of tensors that are no part of the embedding.
    """

    architecture: str
    fields: dict[str, Any]
    layers: dict[str, TorchLayer]
    image_size: tuple[int, int] = (112, 112)
    spatial: tuple[int, int] = (1, 1)
    ignored: tuple[str, ...] = ()


class Layout(NamedTuple):
    """One way in which state dicts of `architectures` (names in the zoo) are published.

    recognise: shapes -> Match by the distinctive names, also when other tensors are missing or misshapen; None when
    the state dict is of another layout. example: a name that only this layout has, for error messages. convention: what
    its published weights read, where it is not the architecture's usual input.
    """

    name: str
    architectures: tuple[str, ...]
    example: str
    recognise: Callable[[Shapes], Match | None]
    convention: Convention | None = None
