"""Inception-ResNet-v1 as FaceNet has it: 160x160 faces, global pooling, an embedding normalised by BatchNorm."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax.networks.layers import Dtype
from advcloak_jax.networks.norms import BatchNorm
from advcloak_jax.networks.remat import run_block
from advcloak_jax.recognizers.convention import Convention, prepare
from advcloak_jax.recognizers.inception_layers import (
    EPSILON,
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
from advcloak_jax.recognizers.layers import Dropout

FACENET = Convention(std=(128.0, 128.0, 128.0), size=(160, 160))
"""What the published weights read."""
LEAST_SIZE = 75
"""The smallest image whose last map still has a pixel."""

STEM = (halving(32), Step(32, (3, 3)), same(64, 3, 3), Step(80), Step(192, (3, 3)), halving(256))
POOLED_BEFORE = 3
BLOCK_A = ((Step(32),), (Step(32), same(32, 3, 3)), (Step(32), same(32, 3, 3), same(32, 3, 3)))
REDUCTION_A = ((halving(384),), (Step(192), same(192, 3, 3), halving(256)))
BLOCK_B = ((Step(128),), (Step(128), same(128, 1, 7), same(128, 7, 1)))
REDUCTION_B = (
    (Step(256), halving(384)),
    (Step(256), halving(256)),
    (Step(256), same(256, 3, 3), halving(256)),
)
BLOCK_C = ((Step(192),), (Step(192), same(192, 1, 3), same(192, 3, 1)))


class InceptionResNetV1(nn.Module):
    """Images to features. 23,482,624 parameters, whatever the image size (at least 75 x 75).

    5 blocks on a 17 x 17 map of 256 channels, 10 on 8 x 8 of 896, 6 on 3 x 3 of 1792 (from 160 x 160). Fields as in
    `IResNet`, but for the defaults: dropout 0.6, and a `convention` that resizes to 160 x 160 in the graph.
    """

    width: float = 1.0
    embedding_size: int = 512
    dropout: float = 0.6
    convention: Convention = FACENET
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [B, H, W, 3] in [0, 1] -> features [B, d] float32, not normalised. Raises UserError if too small."""
        x = prepare(images, self.convention, self.dtype)
        check_size(x, LEAST_SIZE, "Inception-ResNet-v1")
        common = {"width": self.width, "dtype": self.dtype, "axis_name": self.axis_name}
        for i, step in enumerate(STEM):
            if i == POOLED_BEFORE:
                x = max_pool(x)
            x = ConvNorm(
                channels_at(step.channels, self.width),
                *step[1:],
                dtype=self.dtype,
                axis_name=self.axis_name,
                name=f"stem_{i}",
            )(x, train=train)
        for i in range(5):
            x = run_block(ResidualBlock(BLOCK_A, 0.17, name=f"block_a_{i}", **common), x, remat=self.remat, train=train)
        x = Branches(REDUCTION_A, pooled=True, name="reduction_a", **common)(x, train=train)
        for i in range(10):
            x = run_block(ResidualBlock(BLOCK_B, 0.10, name=f"block_b_{i}", **common), x, remat=self.remat, train=train)
        x = Branches(REDUCTION_B, pooled=True, name="reduction_b", **common)(x, train=train)
        for i in range(5):
            x = run_block(ResidualBlock(BLOCK_C, 0.20, name=f"block_c_{i}", **common), x, remat=self.remat, train=train)
        x = run_block(
            ResidualBlock(BLOCK_C, 1.0, activate=False, name="block_c_5", **common), x, remat=self.remat, train=train
        )
        x = x.astype(jnp.float32).mean((1, 2))
        x = Dropout(self.dropout, self.axis_name)(x, train=train)
        x = nn.Dense(
            self.embedding_size,
            use_bias=False,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            name="dense",
        )(x)
        x = x.astype(jnp.float32)
        return BatchNorm(epsilon=EPSILON, axis_name=self.axis_name, name="norm_embedding")(x, train=train)
