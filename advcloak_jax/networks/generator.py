"""The mask generator G1, G2 (facts of the released AdvCloak code): encoder, residual blocks, decoder, tanh."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.errors import UserError
from advcloak_jax.networks.layers import KAIMING_NORMAL_TRANSPOSED, Dtype, UpsampleConv, conv, reflect_pad
from advcloak_jax.networks.norms import BatchNorm, LayerNorm, instance_norm
from advcloak_jax.networks.remat import run_block


def scale_input(images: jax.Array, dtype: Dtype = jnp.float32) -> jax.Array:
    """[0, 1] to the authors' input scale (p - 127.5) / 128, p in 0..255. Any shape."""
    return ((images.astype(jnp.float32) * 255.0 - 127.5) / 128.0).astype(dtype)


class ResidualBlock(nn.Module):
    """[reflect pad, 3x3 convolution, BatchNorm, ReLU, reflect pad, 3x3 convolution, BatchNorm] + identity."""

    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]; H and W at least 2, for the reflection."""
        channels = x.shape[-1]
        y = x
        for i in range(2):
            y = reflect_pad(y)
            y = conv(channels, 3, in_channels=channels, bias=False, dtype=self.dtype, name=f"conv_{i}")(y)
            y = BatchNorm(axis_name=self.axis_name, name=f"norm_{i}")(y, train=train)
            y = nn.relu(y) if i == 0 else y
        return x + y


class Generator(nn.Module):
    """Images to masks. 7,280,448 parameters at width 64, 3 blocks and 112 x 112.

    The decoder's LayerNorms have one weight and one bias per element of their map, so the parameters fit one image
    size: that of the images given to `init`. Their weights start Kaiming-normal (standard deviation sqrt(2 / (H W)):
    0.025 and 0.013 at 112 x 112), as the released code has it; from ones the final tanh would start saturated.
    Convolutions start Kaiming-normal (fan-in, gain sqrt 2) with PyTorch's biases.

    `width` is the number of channels of the first layer. Convolutions compute in `dtype`; statistics of the norms,
    parameters and the mask are float32. `axis_name` names the device axis over which BatchNorm pools its batch.
    `remat` computes what is inside of the residual blocks twice instead of keeping it for the backward pass.
    """

    width: int = 64
    blocks: int = 3
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [B, H, W, 3] in [0, 1] -> masks [B, H, W, 3] in (-1, 1) on the same scale, float32.

        Raises UserError if H or W is not a multiple of 4 of at least 8.
        """
        height, width, colours = images.shape[1:]
        if height % 4 or width % 4 or min(height, width) < 8:
            raise UserError(
                f"the generator cannot take images of {height} x {width}: "
                "choose an image size that is a multiple of 4 and at least 8."
            )
        x = scale_input(images, self.dtype)
        inputs = colours
        for i, (scale, kernel, stride, padding) in enumerate(((1, 7, 1, 3), (2, 4, 2, 1), (4, 4, 2, 1))):
            layer = conv(
                scale * self.width,
                kernel,
                in_channels=inputs,
                stride=stride,
                padding=padding,
                dtype=self.dtype,
                name=f"encode_{i}",
            )
            x = nn.relu(instance_norm(layer(x)))
            inputs = scale * self.width
        for i in range(self.blocks):
            block = ResidualBlock(self.dtype, self.axis_name, name=f"block_{i}")
            x = run_block(block, x, remat=self.remat, written=False, train=train)
        for i, scale in enumerate((2, 1)):
            x = UpsampleConv(scale * self.width, self.dtype, name=f"decode_{i}")(x)
            x = nn.relu(self._layer_norm(x, name=f"decode_norm_{i}"))
        # The published stride-1 transposed convolution is a plain one with the kernel flipped.
        x = conv(
            colours,
            7,
            in_channels=self.width,
            padding=3,
            bias=False,
            kernel_init=KAIMING_NORMAL_TRANSPOSED,
            dtype=self.dtype,
            name="output",
        )(x)
        return jnp.tanh(x.astype(jnp.float32))

    def _layer_norm(self, x: jax.Array, name: str) -> jax.Array:
        """LayerNorm over (H, W, C) with a weight and a bias per element."""
        # PyTorch's Kaiming fan-in of a weight (C, H, W) is H * W.
        deviation = (2.0 / (x.shape[1] * x.shape[2])) ** 0.5
        return LayerNorm(nn.initializers.normal(deviation), dtype=self.dtype, name=name)(x)
