"""Rematerialisation: the same variables and gradients with less memory, in every network that has blocks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_training as small
from jaxpr_walk import equations

from advcloak_jax.networks.generator import Generator
from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.iresnet import IResNet

FACES = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 16, 16, 3)), jnp.float32)


def gradient(module: nn.Module) -> Any:
    """Gradient and new statistics of a loss, as a function of variables and images."""

    def loss(params: Any, rest: Any, images: jax.Array) -> Any:
        rngs = {"dropout": jax.random.key(1)}
        out, new = module.apply({"params": params, **rest}, images, train=True, mutable=["batch_stats"], rngs=rngs)
        return jnp.square(out).mean(), new

    return lambda variables, images: jax.grad(loss, has_aux=True)(
        variables["params"], {name: value for name, value in variables.items() if name != "params"}, images
    )


def initial(module: nn.Module, images: jax.Array = FACES) -> Any:
    return jax.jit(lambda key: module.init(key, images, train=False))(jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", [Generator(width=4, blocks=1), IResNet((1, 1, 1, 1), 0.125, 8)], ids=["generator", "iresnet"]
)
def test_the_gradient_is_the_same(module: Any) -> None:
    variables = initial(module)
    plain, again = (jax.jit(gradient(kind))(variables, FACES) for kind in (module, module.clone(remat=True)))
    for here, there in zip(again, plain, strict=True):
        assert small.relative(here, there) < 1e-5


def shapes(module: Any, images: jax.ShapeDtypeStruct) -> Any:
    return jax.eval_shape(lambda key, images: module.init(key, images, train=False), jax.random.key(0), images)


def bytes_of(arrays: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))


def kept_bytes(module: Any, variables: Any, images: jax.Array) -> int:
    """What the forward pass keeps for the backward pass, as JAX traces it.

    Not the compiled program's memory: XLA on CPUs takes the second computation out again.
    """

    def pull_back(variables: Any, images: jax.Array) -> Any:
        rest = {name: value for name, value in variables.items() if name != "params"}
        rngs = {"dropout": jax.random.key(1)}

        def forward(params: Any) -> Any:
            return module.apply({"params": params, **rest}, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

        return jax.vjp(forward, variables["params"])[1]

    return bytes_of(jax.eval_shape(pull_back, variables, images))


@pytest.mark.parametrize(
    ("module", "size", "less"),
    [
        (Generator(), 112, 0.85),
        (zoo.build("ir18"), 112, 0.5),
        pytest.param(zoo.build("ir50"), 112, 0.5, marks=pytest.mark.slow),
    ],
    ids=["generator", "ir18", "ir50"],
)
def test_less_is_kept(module: Any, size: int, less: float) -> None:
    images = jax.ShapeDtypeStruct((8, size, size, 3), jnp.float32)
    variables = shapes(module, images)
    plain, again = (kept_bytes(kind, variables, images) for kind in (module, module.clone(remat=True)))
    print(f"{type(module).__name__}: {plain / 2**20:.0f} MiB, {again / 2**20:.0f} MiB, {again / plain:.3f}")
    assert again < less * plain


@pytest.mark.parametrize(
    ("more", "fewer", "inputs"),
    [
        (Generator(width=8, blocks=3), Generator(width=8, blocks=1), [(8, 8, 32), (8, 8, 32)]),
        (
            IResNet((2, 2, 2, 2), 0.125, 8),
            IResNet((1, 1, 1, 1), 0.125, 8),
            [(16, 16, 8), (8, 8, 16), (4, 4, 32), (2, 2, 64)],
        ),
    ],
    ids=["generator", "iresnet"],
)
def test_a_block_keeps_nothing_but_its_input(more: Any, fewer: Any, inputs: list[tuple[int, int, int]]) -> None:
    """What further blocks add to what is kept: exactly their inputs, and the parameters, which are there anyway."""
    count = 64
    images = jax.ShapeDtypeStruct((count, 32, 32, 3), jnp.float32)
    parameters = bytes_of(shapes(more, images)["params"]) - bytes_of(shapes(fewer, images)["params"])
    added = {}
    for remat in (False, True):
        large, less = (kept_bytes(one.clone(remat=remat), shapes(one, images), images) for one in (more, fewer))
        added[remat] = large - less
    needed = sum(4 * count * rows * columns * channels for rows, columns, channels in inputs)
    print(f"needed {needed}, parameters {parameters}, added {added}")
    assert needed <= added[True] <= needed + parameters
    # Without it, at least what the two convolutions and the two norms of a block read.
    assert added[False] >= 4 * needed


@pytest.mark.parametrize(
    ("name", "size", "blocks"),
    [
        ("senet18", 32, 8),
        ("mobilenet", 32, 13),
        ("mobilefacenet", 32, 15),
        pytest.param("inception_resnet_v1", 160, 21, marks=pytest.mark.slow),
        pytest.param("inception_resnet_v2", 32, 40, marks=pytest.mark.slow),
        ("vit_s8", 32, 12),
    ],
)
def test_every_network_makes_its_blocks_again(name: str, size: int, blocks: int) -> None:
    images = jnp.zeros((2, size, size, 3))
    plain, again = (zoo.build(name, width=0.1, embedding_size=16, remat=remat) for remat in (False, True))
    expected, others = (
        jax.eval_shape(lambda key, module=module: module.init(key, images, train=False), jax.random.key(0))
        for module in (plain, again)
    )
    assert expected == others
    rngs = {"dropout": jax.random.key(1)}
    found = equations(lambda v: again.apply(v, images, train=True, mutable=["batch_stats"], rngs=rngs), expected)
    assert sum(one.primitive.name in ("checkpoint", "remat2") for one in found) == blocks
