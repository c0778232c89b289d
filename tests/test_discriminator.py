"""The discriminator equals its PyTorch twin, running statistics included, and starts with PyTorch's defaults."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import State, images, uniform

from advcloak_jax.networks.discriminator import Discriminator
from advcloak_jax.networks.torch_weights import discriminator_layers, load

GOLDEN = Path(__file__).parent / "golden"


def twin() -> State:
    """State dict of the PyTorch twin, width 32: shapes from the published description."""
    shapes: dict[str, tuple[int, ...]] = {"output.weight": (1, 512, 1, 1), "output.bias": (1,)}
    channels = (3, 32, 64, 128, 256, 512)
    for i, kernel in enumerate((4, 4, 4, 4, 3)):
        shapes[f"convs.{i}.weight"] = (channels[i + 1], channels[i], kernel, kernel)
        shapes[f"convs.{i}.bias"] = (channels[i + 1],)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"norms.{i}.{part}"] = (channels[i + 1],)
    return State(shapes)


def test_two_batches_in_one_pass_are_judged_as_in_two() -> None:
    """Logits, gradients and statistics, which the second batch finds as the first left them."""
    discriminator = Discriminator(width=4)
    batches = jnp.stack([jnp.asarray(uniform(f"discriminator.{i}", (6, 64, 64, 3))) for i in range(2)])
    variables = discriminator.init(jax.random.key(0), batches[0], train=False)

    def judge(params: Any, stats: Any, faces: jax.Array) -> Any:
        return discriminator.apply({"params": params, "batch_stats": stats}, faces, train=True, mutable="batch_stats")

    def in_two(params: Any) -> Any:
        first, updated = judge(params, variables["batch_stats"], batches[0])
        second, updated = judge(params, updated["batch_stats"], batches[1])
        return jnp.stack([first, second]), updated

    cotangent = jnp.asarray(uniform("discriminator.cotangent", (2, 6, 2, 2, 1)))

    def answer(of: Callable[[Any], Any], params: Any) -> Any:
        logits, pull, updated = jax.vjp(of, params, has_aux=True)
        return logits, updated, pull(cotangent)

    ways = (in_two, lambda params: judge(params, variables["batch_stats"], batches))
    answers = [jax.jit(functools.partial(answer, of))(variables["params"]) for of in ways]
    for here, there in zip(*map(jax.tree.leaves, answers), strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def test_equals_the_pytorch_twin() -> None:
    discriminator = Discriminator()
    inputs = jnp.asarray(images("discriminator", 4, 112))
    shapes = jax.eval_shape(lambda: discriminator.init(jax.random.key(0), inputs, train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 1_872_801
    variables = load(shapes, twin(), discriminator_layers())
    golden = np.load(GOLDEN / "discriminator.npz")
    logits = jax.jit(lambda v, x: discriminator.apply(v, x, train=False))(variables, inputs)
    np.testing.assert_allclose(logits, golden["evaluate"], atol=1e-4)
    train = jax.jit(lambda v, x: discriminator.apply(v, x, train=True, mutable="batch_stats"))
    logits, updated = train(variables, inputs)
    assert logits.shape == (4, 4, 4, 1)
    np.testing.assert_allclose(logits, golden["train"], atol=1e-4)
    expected = load(updated, {name: golden[name] for name in golden.files}, discriminator_layers())
    for got, want in zip(jax.tree.leaves(updated), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("size", "patches"), [(48, 2), (56, 2), (64, 2), (128, 4)])
def test_small_images(size: int, patches: int) -> None:
    call = lambda: Discriminator().init_with_output(jax.random.key(0), jnp.zeros((2, size, size, 3)), train=True)[0]  # noqa: E731
    assert jax.eval_shape(call).shape == (2, patches, patches, 1)


def test_starts_with_pytorch_defaults() -> None:
    discriminator = Discriminator(width=16)
    init = jax.jit(lambda key: discriminator.init(key, jnp.zeros((1, 32, 32, 3)), train=False))
    params = init(jax.random.key(0))["params"]
    for name, fan_in in (("conv_0", 3 * 16), ("conv_1", 16 * 16), ("conv_4", 128 * 9)):
        bound = fan_in**-0.5
        kernel, bias = jnp.abs(params[name]["kernel"]), jnp.abs(params[name]["bias"])
        assert 0.99 * bound < kernel.max() <= bound
        assert kernel.mean() == pytest.approx(bound / 2, rel=0.1)
        assert 0.7 * bound < bias.max() <= bound
