"""The hull's quadratic programmes as one kernel of a GPU: a problem has a block of threads and stays in its registers.

As loops of XLA's, the solver is some hundreds of small kernels one after the other, whose launches cost a GPU far more
than their arithmetic. Here the same function of one problem is compiled by Pallas for Triton and launched once.
"""

import functools

import jax
import jax.numpy as jnp

from advcloak_jax import hull_solver
from advcloak_jax.errors import UserError
from advcloak_jax.hull_polish import Algebra

LARGEST = 64
"""Images of a person whose matrices still fit a block's registers."""

_NUMBERS_PER_WARP = 1024
"""Of a matrix: 32 in each thread."""


def require_usable(size: int, *, interpret: bool = False) -> None:
    """Raises UserError for a number of images of a person that the kernel cannot hold, and without a GPU."""
    instead = "use --projection-solver loops."
    if size < 2 or size & (size - 1) or size > LARGEST:
        raise UserError(f"The hull's kernel needs 2, 4, 8, 16, 32 or 64 images of a person, not {size}; {instead}")
    backend = jax.default_backend()
    if not interpret and backend != "gpu":
        raise UserError(f"The hull's kernel needs a GPU, but JAX computes on {backend}; {instead}")


@functools.partial(jax.jit, static_argnames=("lower", "upper", "iterations", "polish", "interpret"))
def solve(
    gram: jax.Array,
    linear: jax.Array,
    *,
    lower: float,
    upper: float,
    iterations: int,
    polish: int = 0,
    interpret: bool = False,
) -> jax.Array:
    """As `hull_solver.solve`, for G [..., m, m] and b [..., N, m] with m a power of two up to 64, on GPUs.

    `interpret` runs it on any device, slowly, to test it. Raises UserError as `require_usable` does, and for bounds
    that no weights satisfy.
    """
    # Here, because nothing else needs them and every program would take a tenth of a second longer to start.
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    size = linear.shape[-1]
    require_usable(size, interpret=interpret)
    one = functools.partial(
        hull_solver.solve_one, lower=lower, upper=upper, iterations=iterations, polish=polish, algebra=_REGISTERS
    )

    def kernel(gram_ref: jax.Array, linear_ref: jax.Array, weights_ref: jax.Array) -> None:
        weights_ref[0, 0] = one(gram_ref[0], linear_ref[0, 0])

    grams, linears = gram.reshape(-1, size, size), linear.reshape(-1, *linear.shape[-2:])
    problem = pallas.BlockSpec((1, 1, size), lambda person, image: (person, image, 0))
    call = pallas.pallas_call(
        kernel,
        grid=linears.shape[:2],
        in_specs=[pallas.BlockSpec((1, size, size), lambda person, image: (person, 0, 0)), problem],
        out_specs=problem,
        out_shape=jax.ShapeDtypeStruct(linears.shape, linears.dtype),
        compiler_params=triton.CompilerParams(num_warps=max(1, size * size // _NUMBERS_PER_WARP)),
        interpret=interpret,
        name="hull_projection",
    )
    return call(grams, linears).reshape(linear.shape)


def _product(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    # Triton's own product of matrices wants larger ones, and rounds to TF32.
    return jnp.sum(matrix * vector[None, :], axis=-1)


def _row(matrix: jax.Array, place: jax.Array) -> jax.Array:
    # What lies in registers has no index.
    return jnp.sum(jnp.where((jnp.arange(len(matrix)) == place)[None, :], matrix, 0), axis=-1)


_REGISTERS = Algebra(_product, _row)
