"""What the recognisers share: channel counts, PReLU, depthwise convolution, dropout, the embedding head."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from advcloak_jax.networks.convolution import flax_convolution, flax_pointwise
from advcloak_jax.networks.layers import KAIMING_NORMAL, Dtype
from advcloak_jax.networks.norms import BatchNorm
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
        conv_general_dilated=flax_convolution if kernel > 1 else flax_pointwise,
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

    group: channels that are convolved together, each made of all of them. method: "grouped" is one grouped
    convolution, "shifted" sums of shifted products; same kernel [3, 3, group, C], same sums, and which is faster
    depends on the machine.
    """

    stride: int = 1
    method: str = "shifted"
    dtype: Dtype = jnp.float32
    group: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C], in `dtype`. ValueError for another method."""
        channels = x.shape[-1]
        kernel = self.param("kernel", KAIMING_NORMAL, (3, 3, self.group, channels), jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.method == "grouped":
            return jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding=[(1, 1)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=channels // self.group,
            )
        if self.method == "shifted":
            return _in_groups(x, kernel, self.stride)
        raise ValueError(f"depthwise method '{self.method}': choose 'grouped' or 'shifted'.")


def _in_groups(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """x [B, H, W, C] with kernel [3, 3, group, C], padding 1: depthwise, from every channel of a group to every one."""
    group = kernel.shape[2]
    if group == 1:
        return depthwise(x, kernel[:, :, 0], (stride,) * 2, (1, 1))
    channels = range(group)
    inputs = [x[..., i::group] for i in channels]
    outputs = [
        sum(depthwise(inputs[i], kernel[:, :, i, o::group], (stride,) * 2, (1, 1)) for i in channels) for o in channels
    ]
    made = jnp.stack(outputs, -1)
    return made.reshape(*made.shape[:3], -1)


class Dropout(nn.Module):
    """Dropout that draws for each face by its place in the batch of all devices, however many these are.

    Needs the generator "dropout" in training, the same on all devices.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, ...] -> [B, ...]: each value is 0 with probability `rate`, else divided by 1 - rate."""
        if not train or not self.rate:
            return x
        before = 0 if self.axis_name is None else lax.axis_index(self.axis_name) * len(x)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), before + jnp.arange(len(x)))
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros((), x.dtype))


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
        x = Dropout(self.dropout, self.axis_name)(x, train=train)
        x = x.reshape(x.shape[0], -1)
        # Of a batch of faces a CPU takes longer to round this kernel than to multiply it.
        dtype = jnp.float32 if jax.default_backend() == "cpu" else self.dtype
        x = nn.Dense(self.embedding_size, kernel_init=nn.initializers.xavier_uniform(), dtype=dtype, name="dense")(x)
        return BatchNorm(axis_name=self.axis_name, name="norm_embedding")(x.astype(jnp.float32), train=train)
