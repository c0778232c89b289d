"""IR-18 ... IR-100: the improved residual network for faces, as face.evoLVe and the authors' surrogate have it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.layers import BatchNorm, Dtype
from advcloak_jax.recognizers.convention import Convention, prepare
from advcloak_jax.recognizers.layers import Head, PReLU, conv, scaled_channels


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
    """BN, 3x3 convolution, PReLU, 3x3 convolution with the stride, BN (, squeeze-excitation) + shortcut.

    The shortcut is every stride-th pixel where the channels stay, else a 1x1 convolution with the stride and a BN.
    """

    channels: int
    stride: int
    reduction: int | None = None
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, I] -> [B, ceil(H / stride), ceil(W / stride), channels]."""
        y = BatchNorm(axis_name=self.axis_name, name="norm_0")(x, train=train)
        y = conv(self.channels, 3, dtype=self.dtype, name="conv_0")(y)
        y = PReLU(name="act")(y)
        y = conv(self.channels, 3, stride=self.stride, dtype=self.dtype, name="conv_1")(y)
        y = BatchNorm(axis_name=self.axis_name, name="norm_1")(y, train=train)
        if self.reduction is not None:
            y = SqueezeExcitation(self.reduction, self.dtype, name="recalibrate")(y)
        if x.shape[-1] == self.channels:
            return y + x[:, :: self.stride, :: self.stride]
        x = conv(self.channels, 1, stride=self.stride, dtype=self.dtype, name="shortcut_conv")(x)
        return y + BatchNorm(axis_name=self.axis_name, name="shortcut_norm")(x, train=train)


class IResNet(nn.Module):
    """Images to features. IR-50: units (3, 4, 14, 3), 43,574,976 parameters at 112 x 112.

    `units` per stage of 64, 128, 256, 512 channels, each times `width` (rounded to a multiple of 8); each stage halves
    the map. `convention`: scale and order of the input. `reduction` adds squeeze-excitation (see senet.py).
    The dense layer fits one image size: that of the images given to `init`; any size works.
    """

    units: tuple[int, int, int, int] = (3, 4, 14, 3)
    width: float = 1.0
    embedding_size: int = 512
    dropout: float = 0.4
    convention: Convention = Convention()
    reduction: int | None = None
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [B, H, W, 3] in [0, 1] -> features [B, d] float32, not normalised."""
        x = prepare(images, self.convention, self.dtype)
        x = conv(scaled_channels(64, self.width), 3, dtype=self.dtype, name="stem_conv")(x)
        x = BatchNorm(axis_name=self.axis_name, name="stem_norm")(x, train=train)
        x = PReLU(name="stem_act")(x)
        index = 0
        for channels, units in zip((64, 128, 256, 512), self.units, strict=True):
            for unit in range(units):
                x = IRUnit(
                    scaled_channels(channels, self.width),
                    2 if unit == 0 else 1,
                    self.reduction,
                    self.dtype,
                    self.axis_name,
                    name=f"unit_{index}",
                )(x, train=train)
                index += 1
        return Head(self.embedding_size, self.dropout, self.dtype, self.axis_name, name="head")(x, train=train)
