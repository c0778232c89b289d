"""MobileFaceNet (Chen et al. 2018): inverted residuals for faces, the last map weighted by a global kernel."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.layers import KAIMING_NORMAL, Dtype
from advcloak_jax.networks.norms import BatchNorm
from advcloak_jax.networks.remat import run_block
from advcloak_jax.recognizers.convention import Convention, prepare
from advcloak_jax.recognizers.depthwise import depthwise
from advcloak_jax.recognizers.layers import DepthwiseConv, Dropout, PReLU, conv, scaled_channels

Units = tuple[int, int, int, int]


class Unit(NamedTuple):
    """Channels that a unit gives, those it has inside, and its stride; a unit of stride 1 is residual."""

    channels: int
    hidden: int
    stride: int


def plan(units: Sequence[int]) -> list[Unit]:
    """The units one after the other, from how many residual ones there are on each map.

    The first map has none where `units[0]` is 1: there a depthwise convolution takes their place.
    """
    first, second, third, fourth = units
    return [
        *[Unit(64, 128, 1)] * (first if first > 1 else 0),
        Unit(64, 128, 2),
        *[Unit(64, 128, 1)] * second,
        Unit(128, 256, 2),
        *[Unit(128, 256, 1)] * third,
        Unit(128, 512, 2),
        *[Unit(128, 256, 1)] * fourth,
    ]


class InvertedResidual(nn.Module):
    """1x1 to `hidden` channels, depthwise 3x3 with the stride, linear 1x1 to `channels`; stride 1: + its input."""

    channels: int
    hidden: int
    stride: int
    relu6: bool = False
    depthwise: str = "shifted"
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, I] -> [B, ceil(H / stride), ceil(W / stride), channels]."""
        y = conv(self.hidden, 1, dtype=self.dtype, name="expand")(x)
        y = BatchNorm(axis_name=self.axis_name, name="expand_norm")(y, train=train)
        y = nn.relu6(y) if self.relu6 else PReLU(name="expand_act")(y)
        y = DepthwiseConv(self.stride, self.depthwise, self.dtype, name="depthwise")(y)
        y = BatchNorm(axis_name=self.axis_name, name="depthwise_norm")(y, train=train)
        y = nn.relu6(y) if self.relu6 else PReLU(name="depthwise_act")(y)
        y = conv(self.channels, 1, dtype=self.dtype, name="project")(y)
        y = BatchNorm(axis_name=self.axis_name, name="project_norm")(y, train=train)
        return x + y if self.stride == 1 else y


class GlobalDepthwise(nn.Module):
    """Each channel's map to one number, by a kernel as large as the map."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, C], in `dtype`."""
        kernel = self.param("kernel", KAIMING_NORMAL, (*x.shape[1:3], 1, x.shape[3]), jnp.float32)
        return depthwise(x.astype(self.dtype), kernel[:, :, 0].astype(self.dtype), (1, 1), (0, 0))[:, 0, 0]


class MobileFaceNet(nn.Module):
    """Images to features; the last map is a sixteenth of the image.

    width multiplies all channels. units: see `plan`. scale multiplies the channels between the units alone, as
    InsightFace's larger ones (scale 2, and 4 with units (2, 8, 12, 4)) do. relu6: foamliu's variant, with ReLU6 for
    PReLU, a 1x1 convolution and plain ReLUs in the stem, and a bias before the last norm. `depthwise`: "shifted" or
    "grouped", see `DepthwiseConv`. dropout: of the features before the dense layer (the published ones use none).
    The global kernel fits one image size, that of `init` or of the convention.
    """

    units: Units = (1, 4, 6, 2)
    scale: int = 1
    width: float = 1.0
    embedding_size: int = 128
    dropout: float = 0.0
    convention: Convention = Convention()
    relu6: bool = False
    depthwise: str = "shifted"
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [B, H, W, 3] in [0, 1] -> features [B, d] float32, not normalised."""
        x = prepare(images, self.convention, self.dtype)
        x = self._stem(x, train)
        for i, unit in enumerate(plan(self.units)):
            block = InvertedResidual(
                scaled_channels(unit.channels, self.width) * self.scale,
                scaled_channels(unit.hidden, self.width),
                unit.stride,
                self.relu6,
                self.depthwise,
                self.dtype,
                self.axis_name,
                name=f"unit_{i}",
            )
            x = run_block(block, x, remat=self.remat, train=train)
        x = conv(scaled_channels(512, self.width), 1, dtype=self.dtype, name="last")(x)
        x = self._norm(x, "last", train)
        x = nn.relu6(x) if self.relu6 else PReLU(name="last_act")(x)
        x = self._norm(GlobalDepthwise(self.dtype, name="global")(x), "global", train)
        x = Dropout(self.dropout, self.axis_name)(x, train=train)
        x = nn.Dense(
            self.embedding_size,
            use_bias=self.relu6,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            name="embedding",
        )(x)
        return self._norm(x.astype(jnp.float32), "embedding", train)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, 3] -> [B, ceil(H / 2), ceil(W / 2), C]."""
        channels = scaled_channels(64, self.width) * self.scale
        x = self._norm(conv(channels, 3, stride=2, dtype=self.dtype, name="stem")(x), "stem", train)
        x = nn.relu6(x) if self.relu6 else PReLU(name="stem_act")(x)
        if self.units[0] > 1:
            return x
        # As many groups as at scale 1.
        x = DepthwiseConv(1, self.depthwise, self.dtype, self.scale, name="stem_depthwise")(x)
        x = self._norm(x, "stem_depthwise", train)
        if not self.relu6:
            return PReLU(name="stem_depthwise_act")(x)
        x = conv(channels, 1, dtype=self.dtype, name="stem_pointwise")(nn.relu(x))
        return nn.relu(self._norm(x, "stem_pointwise", train))

    def _norm(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        return BatchNorm(axis_name=self.axis_name, name=f"{name}_norm")(x, train=train)
