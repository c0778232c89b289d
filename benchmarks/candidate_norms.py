"""Candidates for batch norm: what JAX derives of its plain form, against one formula and one exchange each way."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from advcloak_jax.networks.batch_normalise import batch_normalise
from benchmarks.candidate_parts import Pair, bound, by_all, noise
from benchmarks.sizes import Size

EPSILON = 1e-5
LAYERS = 12


def plain(x: jax.Array, scale: jax.Array, bias: jax.Array, axis: str | None = None) -> jax.Array:
    """Batch norm whose gradients are left to JAX, with an exchange for the mean and one for the variance."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    var = jnp.square(x - mean).mean(axes)
    if axis is not None:
        overall = lax.pmean(mean, axis)
        var, mean = lax.pmean(var + jnp.square(mean - overall), axis), overall
    return (x - mean) * (lax.rsqrt(var + EPSILON) * scale) + bias


def ours(x: jax.Array, scale: jax.Array, bias: jax.Array, axis: str | None = None) -> jax.Array:
    """The networks' batch norm."""
    return batch_normalise(x, scale, bias, EPSILON, axis)[0]


def gradients(size: Size, batch: int) -> Pair:
    """A norm of a recogniser's first stage, with gradients."""
    side, channels = size.image, size.channels[0]
    arguments = noise(batch, side, side, channels), jnp.linspace(0.5, 2.0, channels), jnp.linspace(-1.0, 1.0, channels)
    # Squashed: a norm's own squares always add up to the same, and have no gradient but rounding.
    return Pair(*(by_all(lambda *values, norm=norm: jnp.tanh(norm(*values)), *arguments) for norm in (plain, ours)))


def one_exchange(size: Size, batch: int) -> Pair:
    """Norms one after the other over two devices, with gradients: two exchanges each way, against one."""
    channels = 4 * size.generator
    values, scale, bias = noise(batch, 4, 4, channels), jnp.ones(channels), jnp.zeros(channels)

    def chained(norm: Callable[..., jax.Array]) -> Callable[[], Any]:
        def run(x: jax.Array) -> jax.Array:
            for _ in range(LAYERS):
                x = jnp.tanh(norm(x, scale, bias, "d"))
            return x

        mesh = Mesh(np.array(jax.local_devices()[:2]), ("d",))
        mapped = jax.shard_map(
            jax.grad(lambda x: jnp.sum(jnp.square(run(x)))),
            mesh=mesh,
            in_specs=P("d"),
            out_specs=P("d"),
            check_vma=False,
        )
        return bound(mapped, values)

    return Pair(chained(plain), chained(ours))


PAIRS: dict[str, Callable[[Size, int], Pair]] = {
    "batch norm's gradients in one formula": gradients,
    "one exchange for mean and variance": one_exchange,
}
