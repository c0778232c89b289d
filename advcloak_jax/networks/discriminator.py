"""The patch discriminator D1, D2 (facts of the released AdvCloak code)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.generator import scale_input
from advcloak_jax.networks.layers import TORCH_UNIFORM, Dtype, conv
from advcloak_jax.networks.norms import BatchNorm


class Discriminator(nn.Module):
    """Images to patch logits, real positive. 1,872,801 parameters at width 32, for any image size.

    As released: no activation after the first two layers, and a BatchNorm whose running statistics follow the last
    batch (epsilon 1e-3, momentum 0.995 in PyTorch's sense). PyTorch's default initialisation. `width` is the number
    of channels of the first layer; `dtype` and `axis_name` as in `Generator`.
    """

    width: int = 32
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [B, H, W, 3] in [0, 1] -> logits [B, h, w, 1] float32; h = w = 4 for 112 x 112. H, W at least 16.

        Several batches in one pass, [S, B, H, W, 3] -> [S, B, h, w, 1], are normalised as if one came after the other.
        """
        x = scale_input(images, self.dtype)
        inputs = images.shape[-1]
        norm = partial(BatchNorm, momentum=0.995, epsilon=1e-3, axis_name=self.axis_name, apart=images.ndim - 4)
        for i, kernel in enumerate((4, 4, 4, 4, 3)):
            channels = self.width * 2**i
            x = self._conv(channels, kernel, inputs, name=f"conv_{i}", stride=2, padding=1)(x)
            x = norm(name=f"norm_{i}")(x, train=train)
            if i >= 2:
                x = nn.leaky_relu(x, 0.2)
            inputs = channels
        return self._conv(1, 1, inputs, name="output")(x).astype(jnp.float32)

    def _conv(self, channels: int, kernel: int, inputs: int, name: str, stride: int = 1, padding: int = 0) -> nn.Conv:
        return conv(
            channels,
            kernel,
            in_channels=inputs,
            stride=stride,
            padding=padding,
            kernel_init=TORCH_UNIFORM,
            dtype=self.dtype,
            name=name,
        )
