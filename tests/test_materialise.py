"""What `materialised` gives is what it was given, and it keeps chains of residual blocks from being computed anew."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import uniform
from jax import export

from advcloak_jax.networks.materialise import materialised
from advcloak_jax.networks.remat import run_block
from advcloak_jax.recognizers.inception_layers import ResidualBlock, Step, max_pool, same

on_cpus = pytest.mark.skipif(jax.default_backend() != "cpu", reason="for CPUs only")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("first", [0.0, -0.0, 3.5, -1e30, 1e38, np.inf, -np.inf, np.nan])
def test_values_and_gradients_pass_unchanged(first: float, dtype: jnp.dtype) -> None:
    """Whatever is first, which the branch looks at."""
    x = jnp.asarray(uniform("materialise", (3, 4, 5))).at[0, 0, 0].set(first).astype(dtype)
    found, pull = jax.jit(lambda x: jax.vjp(materialised, x))(x)
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(x, np.float32))
    np.testing.assert_array_equal(np.asarray(pull(x)[0], np.float32), np.asarray(x, np.float32))
    assert found.dtype == dtype


class Chain(nn.Module):
    """Residual blocks of a recogniser, one after another, and a pooling that reads their sum several times."""

    blocks: int
    written: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        branches = (Step(16),), (Step(16), same(16, 3, 3))
        for i in range(self.blocks):
            block = ResidualBlock(branches, 0.1, normalise=True, name=f"block_{i}")
            x = run_block(block, x, remat=False, written=self.written, train=True)
        return max_pool(x)


def flop(blocks: int, written: bool) -> float:
    """What XLA's program of a chain with its gradients computes, by its own count."""
    chain, x = Chain(blocks, written), jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.float32)
    variables = jax.eval_shape(chain.init, jax.random.key(0), x)

    def loss(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        statistics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables["batch_stats"])
        made, _ = chain.apply({"params": params, "batch_stats": statistics}, x, mutable=["batch_stats"])
        return jnp.square(made).mean()

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(variables["params"], x).compile()
    return float(compiled.cost_analysis()["flops"])


@on_cpus
def test_work_grows_with_the_chain_and_not_with_its_square() -> None:
    grown, anew = (flop(24, written) / flop(8, written) for written in (True, False))
    assert grown < 3.05
    assert anew > 3.15  # else XLA has mended it and the branches can go


@on_cpus
def test_not_of_one_image_nor_of_an_exported_network() -> None:
    def branches(batch: int) -> int:
        return str(jax.make_jaxpr(materialised)(jnp.zeros((batch, 4)))).count("cond[")

    assert (branches(1), branches(2)) == (0, 1)
    batch = export.symbolic_shape("b", constraints=["b >= 1"])[0]
    text = export.export(jax.jit(materialised))(jax.ShapeDtypeStruct((batch, 4), jnp.float32)).mlir_module()
    assert "stablehlo.case" not in text
