"""ViT-S/8 for faces: a vision transformer of 8 x 8 patches whose tokens' mean becomes the embedding."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.errors import UserError
from advcloak_jax.networks.layers import Dtype
from advcloak_jax.networks.norms import BatchNorm
from advcloak_jax.networks.remat import run_block
from advcloak_jax.recognizers.convention import Convention, prepare
from advcloak_jax.recognizers.layers import Dropout

PATCH = 8
HEAD_SIZE = 64
TRUNCATED_NORMAL = nn.initializers.truncated_normal(0.02)


def _dense(features: int, dtype: Dtype, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=TRUNCATED_NORMAL, dtype=dtype, name=name)


class TokenNorm(nn.Module):
    """Each token to mean 0 and variance 1 over its channels, then a learnt scale and bias; float32 inside."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, C] -> [B, T, C], in `dtype`."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        values = x.astype(jnp.float32)
        values = values - values.mean(-1, keepdims=True)
        var = jnp.square(values).mean(-1, keepdims=True)
        return (values * jax.lax.rsqrt(var + 1e-6) * scale + bias).astype(self.dtype)


class PatchEmbedding(nn.Module):
    """A linear map of every 8 x 8 patch: a convolution whose stride is its kernel, made as one matrix product."""

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, 3] -> [B, H * W / 64, channels], in `dtype`, row by row."""
        batch, height, width, inputs = x.shape
        kernel = self.param("kernel", TRUNCATED_NORMAL, (PATCH, PATCH, inputs, self.channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        x = x.astype(self.dtype).reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, inputs)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, PATCH * PATCH * inputs)
        return x @ kernel.astype(self.dtype).reshape(-1, self.channels) + bias.astype(self.dtype)


class Positions(nn.Module):
    """A learnt vector for every token's place."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, C] -> [B, T, C], in the dtype of `x`."""
        return x + self.param("table", TRUNCATED_NORMAL, (1, *x.shape[1:]), jnp.float32).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017); its softmax is float32."""

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, C] -> [B, T, C], in `dtype`."""
        batch, tokens, channels = x.shape
        qkv = _dense(3 * channels, self.dtype, "qkv")(x).reshape(batch, tokens, 3, self.heads, -1)
        query, key, value = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))  # [B, heads, T, C / heads]
        scores = jnp.einsum("bhqc,bhkc->bhqk", query, key, preferred_element_type=jnp.float32)
        weights = nn.softmax(scores * (channels // self.heads) ** -0.5).astype(self.dtype)
        return _dense(channels, self.dtype, "proj")((weights @ value).swapaxes(1, 2).reshape(x.shape))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), whose MLP is four times as wide with an exact GELU between."""

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, C] -> [B, T, C]."""
        x = x + Attention(self.heads, self.dtype, name="attention")(TokenNorm(self.dtype, name="norm_0")(x))
        y = _dense(4 * x.shape[-1], self.dtype, "expand")(TokenNorm(self.dtype, name="norm_1")(x))
        return x + _dense(x.shape[-1], self.dtype, "contract")(nn.gelu(y, approximate=False))


class ViT(nn.Module):
    """Images to features. ViT-S/8 (Dosovitskiy et al. 2021): 21,641,856 parameters at 112 x 112, where T = 196 tokens.

    `depth` blocks of `heads` heads of 64 channels, heads times `width` (at least one); no class token: the tokens' mean
    after the last norm goes through dropout, a dense layer and BN. Other fields as in `IResNet`.
    Sides must be multiples of 8; the position table fits the image size given to `init`.
    """

    depth: int = 12
    heads: int = 6
    width: float = 1.0
    embedding_size: int = 512
    dropout: float = 0.4
    convention: Convention = Convention()
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [B, H, W, 3] in [0, 1] -> features [B, d] float32, not normalised.

        In training needs the generator "dropout". Raises UserError for sides that are not multiples of 8.
        """
        x = prepare(images, self.convention, self.dtype)
        if x.shape[1] % PATCH or x.shape[2] % PATCH:
            raise UserError(f"a vit reads faces whose sides are multiples of {PATCH}, not {x.shape[1]}x{x.shape[2]}.")
        heads = max(1, round(self.heads * self.width))
        x = PatchEmbedding(heads * HEAD_SIZE, self.dtype, name="patches")(x)
        x = Positions(name="positions")(x)
        for i in range(self.depth):
            x = run_block(Block(heads, self.dtype, name=f"block_{i}"), x, remat=self.remat)
        x = TokenNorm(name="norm")(x).mean(1)
        x = Dropout(self.dropout, self.axis_name)(x, train=train)
        x = _dense(self.embedding_size, self.dtype, "dense")(x)
        return BatchNorm(axis_name=self.axis_name, name="norm_embedding")(x.astype(jnp.float32), train=train)
