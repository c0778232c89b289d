"""What the recognisers share: channel counts, PReLU, depthwise convolution, the embedding head."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.layers import KAIMING_NORMAL, BatchNorm, Dtype, flax_convolution
from advcloak_jax.recognizers.depthwise import depthwise


def scaled_channels(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 8, at least 8."""
    return max(8, 8 * round(channels * width / 8))


def conv(
    channels: int, kernel: int, *, stride: int = 1, dtype: Dtype = jnp.float32, name: str | None = None
) -> nn.Conv:
    """A square convolution without bias, padded as PyTorch's `padding=kernel // 2`, Kaiming-normal."""
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=stride,
        padding=[(kernel // 2, kernel // 2)] * 2,
        use_bias=False,
        kernel_init=KAIMING_NORMAL,
        conv_general_dilated=flax_convolution if kernel > 1 else None,
        dtype=dtype,
        name=name,
    )


class PReLU(nn.Module):
    """max(x, 0) + slope * min(x, 0) with one learnt slope per channel, from 0.25."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C], in the dtype of `x`."""
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],), jnp.float32)
        return jnp.where(x >= 0, x, x * slope.astype(x.dtype))


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of each channel by itself, padding 1, no bias.

    method: "grouped" is one grouped convolution, "shifted" nine shifted multiply-adds; same kernel [3, 3, 1, C],
    same sums, and which is faster depends on the machine.
    """

    stride: int = 1
    method: str = "shifted"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C], in `dtype`. ValueError for another method."""
        channels = x.shape[-1]
        kernel = self.param("kernel", KAIMING_NORMAL, (3, 3, 1, channels), jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.method == "grouped":
            return jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding=[(1, 1)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=channels,
            )
        if self.method == "shifted":
            return depthwise(x, kernel[:, :, 0], (self.stride,) * 2, (1, 1))
        raise ValueError(f"depthwise method '{self.method}': choose 'grouped' or 'shifted'.")


class Head(nn.Module):
    """The feature map to the embedding: BatchNorm, dropout, flatten, dense, BatchNorm."""

    embedding_size: int = 512
    dropout: float = 0.4
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, h, w, C] -> [B, d] float32, not normalised. In training needs the generator "dropout"."""
        x = BatchNorm(axis_name=self.axis_name, name="norm_map")(x, train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(self.embedding_size, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype, name="dense")(
            x
        )
        return BatchNorm(axis_name=self.axis_name, name="norm_embedding")(x.astype(jnp.float32), train=train)
