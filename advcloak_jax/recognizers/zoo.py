"""The recognisers by name: which backbone, which units, which input."""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.convention import Convention
from advcloak_jax.recognizers.iresnet import IResNet
from advcloak_jax.recognizers.mobilenet import MobileNet
from advcloak_jax.recognizers.senet import SENet


class Architecture(NamedTuple):
    """One entry of the zoo, at its published size.

    units: residual units per stage (empty where fixed); parameters: at width 1, embedding size 512 and `image_size`,
    without the class weights; convention: what its published weights read; source: who published this layout.
    """

    builder: Callable[..., nn.Module]
    units: tuple[int, ...]
    parameters: int
    source: str
    embedding_size: int = 512
    image_size: int = 112
    convention: Convention = Convention()


ARCHITECTURES: dict[str, Architecture] = {
    "ir18": Architecture(IResNet, (2, 2, 2, 2), 24_017_536, "IR-50's unit, ResNet-18's counts (ours)"),
    "ir34": Architecture(IResNet, (3, 4, 6, 3), 34_127_552, "IR-50's unit, ResNet-34's counts (ours)"),
    "ir50": Architecture(IResNet, (3, 4, 14, 3), 43_574_976, "face.evoLVe IR_50, the paper's surrogate"),
    "ir100": Architecture(IResNet, (3, 13, 30, 3), 65_129_792, "face.evoLVe IR_101"),
    "senet18": Architecture(SENet, (2, 2, 2, 2), 24_104_576, "IR-SE-50's unit, ResNet-18's counts (ours)"),
    "senet50": Architecture(SENet, (3, 4, 14, 3), 43_797_696, "face.evoLVe IR_SE_50, the paper's SENet"),
    "mobilenet": Architecture(MobileNet, (), 28_911_616, "InsightFace fmobilenet, the paper's MobileNet"),
}


def names() -> list[str]:
    """The names `build` knows, sorted."""
    return sorted(ARCHITECTURES)


def architecture(name: str) -> Architecture:
    """The entry called `name`. Raises UserError, with the nearest names, if there is none."""
    if name not in ARCHITECTURES:
        nearest = difflib.get_close_matches(name, names(), n=3, cutoff=0.3) or names()
        raise UserError(f"there is no recogniser '{name}': choose {', '.join(nearest)}.")
    return ARCHITECTURES[name]


def build(
    name: str,
    *,
    width: float = 1.0,
    embedding_size: int | None = None,
    dropout: float = 0.4,
    convention: Convention | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
) -> nn.Module:
    """The module called `name`: images [B, H, W, 3] in [0, 1] -> features [B, d], see `IResNet`.

    width multiplies the channels; embedding_size and convention default to the entry's; dtype is the compute dtype;
    axis_name the device axis over which BatchNorm pools its batch. Raises UserError for an unknown name.
    """
    entry = architecture(name)
    fields: dict[str, Any] = {
        "width": width,
        "embedding_size": entry.embedding_size if embedding_size is None else embedding_size,
        "dropout": dropout,
        "convention": entry.convention if convention is None else convention,
        "dtype": dtype,
        "axis_name": axis_name,
    }
    if entry.units:
        fields["units"] = entry.units
    return entry.builder(**fields)
