"""Batch norm over devices is that of all values together, with its gradients, in one exchange each way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from advcloak_jax.networks import moments
from advcloak_jax.networks.batch_normalise import batch_normalise
from benchmarks import collectives, scaling


def own_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance [C] of x [N, C]."""
    mean = x.mean(0)
    return mean, jnp.square(x - mean).mean(0)


def shared_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same over the mapped axis."""
    return moments.over_devices(*own_moments(x), "d")


def test_far_from_zero_no_digits_are_lost() -> None:
    rng = np.random.default_rng(0)
    # Devices' means lie apart by a deviation, and all of them a thousand deviations from zero.
    x = (1e3 + rng.standard_normal((4, 1, 6)) + rng.standard_normal((4, 64, 6))).astype(np.float32)
    mean, var = jax.vmap(shared_moments, axis_name="d")(jnp.asarray(x))
    whole = x.astype(np.float64).reshape(-1, 6)
    np.testing.assert_allclose(mean, np.broadcast_to(whole.mean(0), (4, 6)), rtol=1e-6)
    np.testing.assert_allclose(var, np.broadcast_to(whole.var(0), (4, 6)), rtol=1e-3)
    # The mean's own rounding, 6e-5 in 1e3, enters the variance squared; E[x^2] - E[x]^2 has none of its digits left.
    single = np.square(x).reshape(-1, 6).mean(0) - np.square(x.reshape(-1, 6).mean(0))
    assert np.abs(single / whole.var(0) - 1).max() > 1e-2


def norm(x: jax.Array, scale: jax.Array, bias: jax.Array, axis: str | None) -> jax.Array:
    """Batch norm in training."""
    return batch_normalise(x, scale, bias, 1e-5, axis)[0]


def test_gradients_are_those_that_jax_derives() -> None:
    rng = np.random.default_rng(1)
    x, pull = (jnp.asarray(rng.standard_normal((3, 4, 2, 5)) + 2, jnp.float32) for _ in range(2))
    scale, bias = jnp.linspace(0.5, 2, 5), jnp.linspace(-1, 1, 5)

    def derived(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        mean, var = own_moments(x.reshape(-1, 5))
        return (((x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias) * pull).sum()

    want = jax.grad(derived, (0, 1, 2))(x, scale, bias)
    got = jax.grad(lambda *values: (norm(*values, None) * pull).sum(), (0, 1, 2))(x, scale, bias)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-5)

    # On three devices: of all devices' losses by their values; by scale and bias, each device its own part.
    def apart(x: jax.Array, pull: jax.Array) -> tuple[jax.Array, ...]:
        return jax.grad(lambda *values: (norm(*values, "d") * pull).sum(), (0, 1, 2))(x, scale, bias)

    of_x, of_scale, of_bias = jax.vmap(apart, axis_name="d")(x, pull)
    for ours, theirs in zip((of_x, of_scale.sum(0), of_bias.sum(0)), want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-5)


def test_half_precision_has_float32_statistics() -> None:
    x = jnp.asarray(np.random.default_rng(2).standard_normal((8, 6, 6, 3)) + 30, jnp.bfloat16)
    scale, bias = jnp.ones(3), jnp.zeros(3)
    y, mean, var = batch_normalise(x, scale, bias, 1e-5, None)
    slope = jax.grad(lambda x: jnp.square(norm(x, scale, bias, None).astype(jnp.float32) - 1).sum())(x)
    assert y.dtype == slope.dtype == jnp.bfloat16
    assert mean.dtype == var.dtype == jnp.float32
    whole = np.asarray(x, np.float64).reshape(-1, 3)
    np.testing.assert_allclose(mean, whole.mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, whole.var(0), rtol=1e-4)


@pytest.mark.parametrize("gradient", [False, True])
def test_one_exchange_each_way(gradient: bool) -> None:
    def loss(x: jax.Array) -> jax.Array:
        return jnp.square(norm(x, jnp.ones(5), jnp.zeros(5), "d") - 1.5).sum()

    mesh = Mesh(np.array(jax.local_devices()[:2]), ("d",))
    mapped = jax.shard_map(
        jax.grad(loss) if gradient else lambda x: loss(x)[None],
        mesh=mesh,
        in_specs=P("d"),
        out_specs=P("d"),
        check_vma=False,
    )
    text = jax.jit(mapped).lower(jnp.ones((8, 5))).compile().as_text()
    # Forward two parts of two numbers a channel, backward one pair.
    forward, backward = 2 * 2 * 5 * 4, 2 * 5 * 4
    assert collectives.exchanged(text) == {
        "all-reduce": collectives.Exchange(1 + gradient, forward + gradient * backward)
    }
    assert collectives.statistics(text, 2) == forward


def test_predicted_bytes_grow_with_each_device() -> None:
    counted = {"devices": 2, "all_reduces": 10, "all_reduced_mb": 30.0, "all_reduced_mb_for_each_device": 0.5}
    rows = scaling.predict("stage I", counted, 5e-3)
    found = {row["devices"]: row["all_reduced_mb"] for row in rows}
    assert found == {8: 33.0, 64: 61.0, 256: 157.0}
    # By a ring of 8 at 450 GB/s, 14 turns of 3 us for each all-reduce; by a tree 6 turns, and twice the bytes.
    nvlink = next(row for row in rows if row["interconnect"].startswith("NVLink"))
    assert nvlink["exchange_ms"] == pytest.approx(2 * 33e6 / 450e9 * 1e3 + 10 * 6 * 3e-3)
    assert nvlink["efficiency"] == pytest.approx(5 / (5 + nvlink["exchange_ms"]))
