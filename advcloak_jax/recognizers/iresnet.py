"""IR-18 ... IR-200: the improved residual network for faces, with the units of face.evoLVe or of arcface_torch."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.layers import Dtype
from advcloak_jax.networks.norms import BatchNorm
from advcloak_jax.networks.remat import run_block
from advcloak_jax.recognizers.convention import Convention, prepare
from advcloak_jax.recognizers.layers import Head, PReLU, conv, scaled_channels

UNITS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    152: (3, 8, 36, 3),
    200: (6, 26, 60, 6),
}
"""Units per stage by the depth in a network's name."""
UNIT_LAYOUTS = ("evolve", "arcface_torch")


class SqueezeExcitation(nn.Module):
    """Channels reweighted by a sigmoid of their spatial means, through two 1x1 layers (Hu et al. 2018)."""

    reduction: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        channels = x.shape[-1]
        gate = x.astype(jnp.float32).mean((1, 2), keepdims=True)
        gate = nn.relu(conv(max(1, channels // self.reduction), 1, dtype=self.dtype, name="squeeze")(gate))
        gate = nn.sigmoid(conv(channels, 1, dtype=self.dtype, name="excite")(gate))
        return x * gate


class IRUnit(nn.Module):
    """BN, 3x3 convolution(, BN), PReLU, 3x3 convolution with the stride, BN(, squeeze-excitation) + shortcut.

    layout "evolve": no BN before the PReLU; the shortcut is every stride-th pixel where the channels stay, else a 1x1
    convolution with the stride and a BN. "arcface_torch": a BN before the PReLU, and that convolution in the shortcut
    of every strided unit.
    """

    channels: int
    stride: int
    reduction: int | None = None
    layout: str = "evolve"
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, I] -> [B, ceil(H / stride), ceil(W / stride), channels]."""
        is_arcface = self.layout == "arcface_torch"
        y = BatchNorm(axis_name=self.axis_name, name="norm_0")(x, train=train)
        y = conv(self.channels, 3, dtype=self.dtype, name="conv_0")(y)
        if is_arcface:
            y = BatchNorm(axis_name=self.axis_name, name="norm_middle")(y, train=train)
        y = PReLU(name="act")(y)
        y = conv(self.channels, 3, stride=self.stride, dtype=self.dtype, name="conv_1")(y)
        y = BatchNorm(axis_name=self.axis_name, name="norm_1")(y, train=train)
        if self.reduction is not None:
            y = SqueezeExcitation(self.reduction, self.dtype, name="recalibrate")(y)
        if x.shape[-1] == self.channels and not (is_arcface and self.stride > 1):
            return y + x[:, :: self.stride, :: self.stride]
        x = conv(self.channels, 1, stride=self.stride, dtype=self.dtype, name="shortcut_conv")(x)
        return y + BatchNorm(axis_name=self.axis_name, name="shortcut_norm")(x, train=train)


def _hold_scale(params: dict[str, Any]) -> dict[str, Any]:
    """The variables of a `Head` with no gradient by the scale of its last norm, so that it stays at 1."""

    def hold(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        held = [key.key for key in path[-2:]] == ["norm_embedding", "scale"]
        return jax.lax.stop_gradient(leaf) if held else leaf

    return jax.tree_util.tree_map_with_path(hold, params)


class IResNet(nn.Module):
    """Images to features. IR-50: units (3, 4, 14, 3), 43,574,976 parameters at 112 x 112.

    `units` per stage of 64, 128, 256, 512 channels, each times `width` (rounded to a multiple of 8); each stage halves
    the map. `convention`: scale and order of the input. `reduction` adds squeeze-excitation (see senet.py).
    `layout`: "evolve", as face.evoLVe and the authors' surrogate have the units, or "arcface_torch", as InsightFace has
    them there (see `IRUnit`), where also the scale of the last BN is not learnt but stays 1.
    `remat` computes what is inside of the units twice instead of keeping it for the backward pass.
    The dense layer fits one image size: that of the images given to `init`; any size works.
    """

    units: tuple[int, int, int, int] = (3, 4, 14, 3)
    width: float = 1.0
    embedding_size: int = 512
    dropout: float = 0.4
    convention: Convention = Convention()
    reduction: int | None = None
    layout: str = "evolve"
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [B, H, W, 3] in [0, 1] -> features [B, d] float32, not normalised. ValueError for another layout."""
        if self.layout not in UNIT_LAYOUTS:
            raise ValueError(f"layout '{self.layout}': choose {' or '.join(map(repr, UNIT_LAYOUTS))}.")
        x = prepare(images, self.convention, self.dtype)
        x = conv(scaled_channels(64, self.width), 3, dtype=self.dtype, name="stem_conv")(x)
        x = BatchNorm(axis_name=self.axis_name, name="stem_norm")(x, train=train)
        x = PReLU(name="stem_act")(x)
        index = 0
        for channels, units in zip((64, 128, 256, 512), self.units, strict=True):
            for unit in range(units):
                block = IRUnit(
                    scaled_channels(channels, self.width),
                    2 if unit == 0 else 1,
                    self.reduction,
                    self.layout,
                    self.dtype,
                    self.axis_name,
                    name=f"unit_{index}",
                )
                x = run_block(block, x, remat=self.remat, train=train)
                index += 1
        head = (
            nn.map_variables(Head, "params", _hold_scale, init=self.is_initializing())
            if self.layout == "arcface_torch" and train
            else Head
        )
        return head(self.embedding_size, self.dropout, self.dtype, self.axis_name, name="head")(x, train=train)
