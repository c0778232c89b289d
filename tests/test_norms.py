"""Norms equal Flax's with their gradients, keep their digits far from the origin, and exchange once each way."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import uniform
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from advcloak_jax.networks import norms
from benchmarks import collectives

VARIABLES = {
    "params": {"scale": jnp.arange(1.0, 6.0), "bias": jnp.arange(5.0)},
    "batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)},
}


def faces(dtype: Any = jnp.float32) -> jax.Array:
    return (jnp.asarray(uniform("norms.x", (4, 6, 7, 5))) + 2.0).astype(dtype)


def pulled(f: Callable[..., jax.Array], cotangent: jax.Array, *arguments: Any) -> Any:
    """What f makes, and the gradients by its arguments."""
    made, pull = jax.vjp(f, *arguments)
    return made, pull(cotangent.astype(made.dtype))


@pytest.mark.parametrize("axes", [(1, 2), (1, 2, 3), (0, 1, 2)])
@pytest.mark.parametrize("origin", [0.0, 1000.0])
def test_one_reading_keeps_the_digits_of_the_variance(axes: tuple[int, ...], origin: float) -> None:
    values = np.random.default_rng(0).normal(origin, 0.5, (3, 16, 16, 4)).astype(np.float32)
    mean, var = norms.moments(jnp.asarray(values), axes)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axes, keepdims=True), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(var, exact.var(axes, keepdims=True), rtol=1e-5)


def test_a_flat_map_has_no_variance_and_no_gradient_that_is_not_finite() -> None:
    flat = jnp.full((2, 4, 4, 3), 7.3)
    assert not norms.moments(flat, (1, 2))[1].any()
    made, (gradient,) = pulled(norms.instance_norm, jnp.asarray(uniform("norms.flat", flat.shape)), flat)
    assert not made.any()
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_instance_norm_equals_flaxs_with_its_gradient(dtype: Any) -> None:
    x, cotangent = faces(dtype), jnp.asarray(uniform("norms.cotangent", faces().shape))
    layer = nn.InstanceNorm(epsilon=1e-5, use_bias=False, use_scale=False, use_fast_variance=False)
    expected, (by_x,) = pulled(lambda x: layer.apply({}, x), cotangent, x.astype(jnp.float32))
    made, (gradient,) = pulled(norms.instance_norm, cotangent, x)
    assert made.dtype == gradient.dtype == dtype
    tolerance = {"atol": 2e-5} if dtype == jnp.float32 else {"atol": 0.03}
    np.testing.assert_allclose(made.astype(jnp.float32), expected, **tolerance)
    np.testing.assert_allclose(gradient.astype(jnp.float32), by_x, **tolerance)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_norm_equals_flaxs_with_its_gradients_and_statistics(dtype: Any) -> None:
    x, cotangent = faces(dtype), jnp.asarray(uniform("norms.cotangent", faces().shape))
    flax_norm = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5, use_fast_variance=False)
    ours = norms.BatchNorm()
    answers = []
    for apply, given in (
        (functools.partial(flax_norm.apply, mutable="batch_stats"), x.astype(jnp.float32)),
        (functools.partial(ours.apply, train=True, mutable="batch_stats"), x),
    ):
        of = lambda params, x, apply=apply: apply(VARIABLES | {"params": params}, x)  # noqa: E731
        made, pull, updated = jax.vjp(of, VARIABLES["params"], given, has_aux=True)
        answers.append((made, pull(cotangent.astype(made.dtype)), updated["batch_stats"]))
    (expected, (by_params, by_x), there), (made, (of_params, of_x), here) = answers
    assert made.dtype == of_x.dtype == dtype
    tolerance = {"rtol": 1e-5, "atol": 2e-4} if dtype == jnp.float32 else {"rtol": 0.02, "atol": 0.2}
    np.testing.assert_allclose(made.astype(jnp.float32), expected, **tolerance)
    np.testing.assert_allclose(of_x.astype(jnp.float32), by_x, **tolerance)
    for name in ("scale", "bias"):
        np.testing.assert_allclose(of_params[name], by_params[name], **tolerance)
    np.testing.assert_allclose(here["mean"], there["mean"], rtol=1e-5)
    count = x.size // 5
    # Flax's running variance takes the biased one, PyTorch's the unbiased.
    np.testing.assert_allclose(here["var"] - 0.9, (there["var"] - 0.9) * count / (count - 1), rtol=1e-4)


@pytest.mark.parametrize("axis_name", [None, "i"])
def test_batches_apart_are_normalised_as_if_one_came_after_the_other(axis_name: str | None) -> None:
    """Values, gradients and running statistics, on one device and on two."""
    x = jnp.stack([faces(), 3 * faces() - 1, faces() ** 2])
    cotangent = jnp.asarray(uniform("norms.apart", x.shape))
    update = functools.partial(norms.BatchNorm(axis_name=axis_name).apply, train=True, mutable="batch_stats")

    def in_turn(params: Any, x: jax.Array) -> Any:
        made, stats = [], VARIABLES["batch_stats"]
        for batch in x:
            one, updated = update({"params": params, "batch_stats": stats}, batch)
            stats = updated["batch_stats"]
            made.append(one)
        return jnp.stack(made), stats

    def at_once(params: Any, x: jax.Array) -> Any:
        norm = norms.BatchNorm(axis_name=axis_name, apart=1)
        made, updated = norm.apply(VARIABLES | {"params": params}, x, train=True, mutable="batch_stats")
        return made, updated["batch_stats"]

    def found(of: Callable[..., Any], x: jax.Array, cotangent: jax.Array) -> Any:
        made, pull, stats = jax.vjp(of, VARIABLES["params"], x, has_aux=True)
        by_params, by_x = pull(cotangent)
        own = jax.lax.psum(by_params, axis_name) if axis_name else by_params
        return (made, by_x), (stats, own)

    for of in (in_turn, at_once):
        call = functools.partial(found, of)
        if axis_name is not None:
            mesh, shared = Mesh(np.array(jax.local_devices()[:2]), ("i",)), P(None, "i")
            call = jax.shard_map(call, mesh=mesh, in_specs=shared, out_specs=(shared, P()), check_vma=False)
        answer = jax.jit(call)(x, cotangent)
        if of is in_turn:
            expected = answer
    for here, there in zip(jax.tree.leaves(answer), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)


def test_mean_and_variance_have_no_gradient_of_their_own() -> None:
    """They feed the running statistics alone, so `batch_normalise` may leave their cotangents aside."""

    def running(x: jax.Array) -> jax.Array:
        _, updated = norms.BatchNorm().apply(VARIABLES, x, train=True, mutable="batch_stats")
        return sum(leaf.sum() for leaf in jax.tree.leaves(updated))

    assert not jax.grad(running)(faces()).any()


class TestSeveralDevices:
    def mapped(self, f: Callable[..., Any]) -> Callable[..., Any]:
        mesh = Mesh(np.array(jax.local_devices()[:2]), ("i",))
        return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("i"), out_specs=P("i"), check_vma=False))

    def both_ways(self, axis_name: str | None) -> Callable[[jax.Array, jax.Array], jax.Array]:
        def run(x: jax.Array, cotangent: jax.Array) -> jax.Array:
            params = VARIABLES["params"]
            of = lambda x: norms.batch_normalise(x, params["scale"], params["bias"], 1e-5, axis_name)[0]  # noqa: E731
            made, (gradient,) = pulled(of, cotangent, x)
            return jnp.stack([made, gradient], axis=1)

        return run

    @pytest.mark.parametrize("offsets", [(0.0, 300.0), (100.0, 100.5)])
    def test_devices_whose_means_are_far_from_each_other_or_from_zero_are_one_batch(
        self, offsets: tuple[float, float]
    ) -> None:
        x = faces().at[:2].add(offsets[0]).at[2:].add(offsets[1])
        cotangent = jnp.asarray(uniform("norms.cotangent", x.shape))
        together = jax.jit(self.both_ways(None))(x, cotangent)
        np.testing.assert_allclose(self.mapped(self.both_ways("i"))(x, cotangent), together, atol=2e-4)

    def test_each_direction_is_one_exchange(self) -> None:
        program = self.mapped(self.both_ways("i")).lower(faces(), faces()).compile().as_text()
        floats = 2 * 5 * 4
        assert collectives.exchanged(program) == {
            "all-gather": collectives.Exchange(1, 2 * floats),
            "all-reduce": collectives.Exchange(1, floats),
        }
