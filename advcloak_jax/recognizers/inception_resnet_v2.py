"""Inception-ResNet-v2 for 112x112 faces as InsightFace's finception_resnet_v2 has it: the paper's Inception-ResNet.

Its differences from Szegedy et al. (2017) are kept, since they make the recogniser: the first convolution has stride 1
and the stem one pooling of two; the second stage's 1x7 and 7x1 kernels are padded by (1, 2) and (2, 1), so the map
between them has two more rows and two fewer columns, and the 1x7 reads 129 channels; the last block is added unscaled.
Its convolutions have biases, which the BatchNorms behind them cancel, and its BatchNorms a scale fixed at 1. Here
convolutions have no bias and BatchNorms a scale: every function of that network is one of this.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.layers import Dtype
from advcloak_jax.networks.remat import run_block
from advcloak_jax.recognizers.convention import Convention, prepare
from advcloak_jax.recognizers.inception_layers import (
    Branches,
    ConvNorm,
    ResidualBlock,
    Step,
    channels_at,
    check_size,
    halving,
    max_pool,
    same,
)
from advcloak_jax.recognizers.layers import Head

INSIGHTFACE = Convention(std=(128.0, 128.0, 128.0))
"""What InsightFace's network reads."""
LEAST_SIZE = 21
"""The smallest image whose last map still has a pixel."""

STEM = (Step(32, (3, 3)), Step(32, (3, 3)), same(64, 3, 3), Step(80), Step(192, (3, 3)))
MIXED = ((Step(96),), (Step(48), same(64, 5, 5)), (Step(64), same(96, 3, 3), same(96, 3, 3)))
AVERAGED = Step(64)
BLOCK_A = ((Step(32),), (Step(32), same(32, 3, 3)), (Step(32), same(48, 3, 3), same(64, 3, 3)))
REDUCTION_A = ((halving(384),), (Step(256), same(256, 3, 3), halving(384)))
BLOCK_B = ((Step(192),), (Step(129), Step(160, (1, 7), (1, 2)), Step(192, (7, 1), (2, 1))))
REDUCTION_B = (
    (Step(256), halving(384)),
    (Step(256), halving(288)),
    (Step(256), same(288, 3, 3), halving(320)),
)
BLOCK_C = ((Step(192),), (Step(192), same(224, 1, 3), same(256, 3, 1)))


class InceptionResNetV2(nn.Module):
    """Images to features. 167,647,240 parameters at 112 x 112, of which the dense layer has 113,246,720.

    10 blocks on a 52 x 52 map of 320 channels, 20 on 25 x 25 of 1088, 10 on 12 x 12 of 2080; the last map, 12 x 12 of
    1536, goes into a dense layer, which fits the size of the images given to `init` (at least 21 x 21). Fields as in
    `IResNet`, but for the default `convention`.
    """

    width: float = 1.0
    embedding_size: int = 512
    dropout: float = 0.4
    convention: Convention = INSIGHTFACE
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [B, H, W, 3] in [0, 1] -> features [B, d] float32, not normalised. Raises UserError if too small."""
        x = prepare(images, self.convention, self.dtype)
        check_size(x, LEAST_SIZE, "Inception-ResNet-v2")
        common = {"width": self.width, "dtype": self.dtype, "axis_name": self.axis_name}

        def conv(step: Step, name: str, x: jax.Array) -> jax.Array:
            channels = channels_at(step.channels, self.width)
            return ConvNorm(channels, *step[1:], dtype=self.dtype, axis_name=self.axis_name, name=name)(x, train=train)

        for i, step in enumerate(STEM):
            x = conv(step, f"stem_{i}", x)
        x = max_pool(x)
        # Beyond the border are zeros that count.
        averaged = conv(AVERAGED, "averaged", nn.avg_pool(x, window_shape=(3, 3), padding="SAME"))
        x = jnp.concatenate([Branches(MIXED, name="mixed", **common)(x, train=train), averaged], axis=-1)
        for i in range(10):
            x = run_block(
                ResidualBlock(BLOCK_A, 0.17, normalise=True, name=f"block_a_{i}", **common),
                x,
                remat=self.remat,
                train=train,
            )
        x = Branches(REDUCTION_A, pooled=True, name="reduction_a", **common)(x, train=train)
        for i in range(20):
            x = run_block(
                ResidualBlock(BLOCK_B, 0.10, normalise=True, name=f"block_b_{i}", **common),
                x,
                remat=self.remat,
                train=train,
            )
        x = Branches(REDUCTION_B, pooled=True, name="reduction_b", **common)(x, train=train)
        for i in range(9):
            x = run_block(
                ResidualBlock(BLOCK_C, 0.20, normalise=True, name=f"block_c_{i}", **common),
                x,
                remat=self.remat,
                train=train,
            )
        x = run_block(
            ResidualBlock(BLOCK_C, 1.0, False, normalise=True, name="block_c_9", **common),
            x,
            remat=self.remat,
            train=train,
        )
        x = conv(Step(1536), "last", x)
        return Head(self.embedding_size, self.dropout, self.dtype, self.axis_name, name="head")(x, train=train)
