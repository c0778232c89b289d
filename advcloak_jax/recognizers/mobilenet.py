"""MobileNet v1 for faces: PReLU, first convolution of stride 1, no pooling (after InsightFace's fmobilenet)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.layers import Dtype
from advcloak_jax.networks.norms import BatchNorm
from advcloak_jax.networks.remat import run_block
from advcloak_jax.recognizers.convention import Convention, prepare
from advcloak_jax.recognizers.layers import DepthwiseConv, Head, PReLU, conv, scaled_channels

# Channels and stride of the depthwise-separable blocks.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


class SeparableBlock(nn.Module):
    """Depthwise 3x3, BN, PReLU, then 1x1 convolution, BN, PReLU."""

    channels: int
    stride: int
    depthwise: str = "shifted"
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, I] -> [B, ceil(H / stride), ceil(W / stride), channels]."""
        x = DepthwiseConv(self.stride, self.depthwise, self.dtype, name="depthwise")(x)
        x = BatchNorm(axis_name=self.axis_name, name="depthwise_norm")(x, train=train)
        x = PReLU(name="depthwise_act")(x)
        x = conv(self.channels, 1, dtype=self.dtype, name="pointwise")(x)
        x = BatchNorm(axis_name=self.axis_name, name="pointwise_norm")(x, train=train)
        return PReLU(name="pointwise_act")(x)


class MobileNet(nn.Module):
    """Images to features; the map is a sixteenth of the image. Fields as in `IResNet`.

    `depthwise`: "shifted" or "grouped", see `DepthwiseConv`; the parameters are the same.
    """

    width: float = 1.0
    embedding_size: int = 512
    dropout: float = 0.4
    convention: Convention = Convention()
    depthwise: str = "shifted"
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [B, H, W, 3] in [0, 1] -> features [B, d] float32, not normalised."""
        x = prepare(images, self.convention, self.dtype)
        x = conv(scaled_channels(32, self.width), 3, dtype=self.dtype, name="stem_conv")(x)
        x = BatchNorm(axis_name=self.axis_name, name="stem_norm")(x, train=train)
        x = PReLU(name="stem_act")(x)
        for i, (channels, stride) in enumerate(BLOCKS):
            block = SeparableBlock(
                scaled_channels(channels, self.width),
                stride,
                self.depthwise,
                self.dtype,
                self.axis_name,
                name=f"block_{i}",
            )
            x = run_block(block, x, remat=self.remat, written=False, train=train)
        return Head(self.embedding_size, self.dropout, self.dtype, self.axis_name, name="head")(x, train=train)
