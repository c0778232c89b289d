"""The feature subspace of an identity (Eq. 5-7) and the projection onto it, in-graph.

With F [m, d] the unit-norm features of a person's images, every subspace is {w F : sum w = 1} with its own bounds on w:
none for the affine hull (Eq. 5), w = 1/m for the class centre (Eq. 6), lower <= w <= upper for the convex hull (Eq. 7).
The nearest point of it is a constant for the backward pass: by Danskin's theorem the gradient of the squared distance
so obtained is exact.

Because sum w = 1, w F - f = w (F - c) - (f - c) with c the class centre. All is computed on the centred features, whose
Gram matrix is far better conditioned.
"""

from typing import Literal, NamedTuple, assert_never

import jax
import jax.numpy as jnp

from advcloak_jax import hull_kernel, hull_solver

Kind = Literal["class-centre", "affine-hull", "convex-hull"]
Solver = Literal["loops", "kernel"]
"""How the convex hull's weights are found: loops of XLA's on any device, or one kernel of a GPU (`hull_kernel`)."""

_HIGHEST = jax.lax.Precision.HIGHEST

EIGENVALUE_CUTOFF = 1e-6
"""Directions with less than this share of the largest eigenvalue are rounding noise in float32."""

_SAME_FEATURES = 1e-12
"""Largest Gram eigenvalue of unit-norm features that differ by rounding only."""


class Subspace(NamedTuple):
    """What the projections need of a person, from `fit`; leading axes are persons. m features of size d, float32."""

    centre: jax.Array
    """[..., d]: class centre c."""
    rows: jax.Array
    """[..., m, d]: centred features F - c."""
    gram: jax.Array
    """[..., m, m]: rows rows'."""
    scale: jax.Array
    """[...]: largest eigenvalue of `gram`; infinite where all features are the same."""
    basis: jax.Array
    """[..., m, d]: orthonormal basis of the affine hull's directions; unused rows are zero."""


def fit(features: jax.Array) -> Subspace:
    """Prepare the subspace of each person from unit-norm features [..., m, d].

    No gradient flows to `features`: they are the originals', which do not depend on what is trained. Pad with repeated
    rows; a zero row would add the origin to the hull.
    """
    features = jax.lax.stop_gradient(features).astype(jnp.float32)
    centre = jnp.mean(features, axis=-2)
    rows = features - centre[..., None, :]
    gram = jnp.einsum("...md,...nd->...mn", rows, rows, precision=_HIGHEST)
    eigenvalues, eigenvectors = jnp.linalg.eigh(gram)
    largest = eigenvalues[..., -1]
    # Dividing by infinity turns a problem without extent into 0 = 0: every weight is right, none is NaN.
    scale = jnp.where(largest < _SAME_FEATURES, jnp.inf, largest)
    return Subspace(centre, rows, gram, scale, _affine_basis(rows, eigenvalues, eigenvectors, scale))


def _affine_basis(rows: jax.Array, eigenvalues: jax.Array, eigenvectors: jax.Array, scale: jax.Array) -> jax.Array:
    """Orthonormal rows [..., m, d] that span `rows`, zero where the eigenvalue is at or below the cut-off."""
    keep = eigenvalues > EIGENVALUE_CUTOFF * scale[..., None]
    factor = jnp.where(keep, jax.lax.rsqrt(jnp.where(keep, eigenvalues, 1)), 0)
    basis = jnp.einsum("...mk,...md->...kd", eigenvectors * factor[..., None, :], rows, precision=_HIGHEST)
    # One Newton-Schulz step towards orthonormal rows: eigenvectors of small eigenvalues are exact only to 1e-7 of the
    # largest.
    overlap = jnp.einsum("...kd,...ld->...kl", basis, basis, precision=_HIGHEST)
    correction = 0.5 * (overlap - keep[..., None, :] * jnp.eye(keep.shape[-1], dtype=basis.dtype))
    return basis - jnp.einsum("...kl,...ld->...kd", correction, basis, precision=_HIGHEST)


def weights(
    subspace: Subspace,
    features: jax.Array,
    *,
    lower: float = 0.0,
    upper: float = 1.0,
    iterations: int = 20,
    polish: int = 16,
    solver: Solver = "loops",
) -> jax.Array:
    """Weights w [..., N, m] of the convex hull's points nearest to features [..., N, d] (Eq. 7), as constants.

    `lower` and `upper` bound each weight; they, the `iterations` of projected gradient and the `polish` active-set
    steps after them are static. The defaults agree with CVX also where the centred Gram matrix is nearly singular;
    without the polish, 20 iterations serve where its condition number is below 1e2, and 50 below 1e3. Raises UserError
    for bounds that no weights satisfy, and as `hull_kernel.solve` does.
    """
    offset = jax.lax.stop_gradient(features).astype(jnp.float32) - subspace.centre[..., None, :]
    linear = jnp.einsum("...nd,...md->...nm", offset, subspace.rows, precision=_HIGHEST)
    scale = subspace.scale[..., None, None]
    solve = hull_kernel.solve if solver == "kernel" else hull_solver.solve
    found = solve(subspace.gram / scale, linear / scale, lower=lower, upper=upper, iterations=iterations, polish=polish)
    return jax.lax.stop_gradient(found)


def project(
    subspace: Subspace,
    features: jax.Array,
    *,
    kind: Kind,
    lower: float = 0.0,
    upper: float = 1.0,
    iterations: int = 20,
    polish: int = 16,
    solver: Solver = "loops",
) -> jax.Array:
    """Points [..., N, d] of the subspace nearest to features [..., N, d], float32, as constants for the backward pass.

    `lower`, `upper`, `iterations`, `polish` and `solver` concern the convex hull only, see `weights`; all but the
    arrays is static. The persons' axes `...` of both arguments are the same, so one call serves all persons of a
    batch. Raises UserError as `weights` does.
    """
    features = jax.lax.stop_gradient(features).astype(jnp.float32)
    centre = subspace.centre[..., None, :]
    match kind:
        case "class-centre":
            return jax.lax.stop_gradient(jnp.broadcast_to(centre, features.shape))
        case "affine-hull":
            inside = jnp.einsum("...nd,...kd->...nk", features - centre, subspace.basis, precision=_HIGHEST)
            step = jnp.einsum("...nk,...kd->...nd", inside, subspace.basis, precision=_HIGHEST)
        case "convex-hull":
            found = weights(
                subspace, features, lower=lower, upper=upper, iterations=iterations, polish=polish, solver=solver
            )
            step = jnp.einsum("...nm,...md->...nd", found, subspace.rows, precision=_HIGHEST)
        case _:
            assert_never(kind)
    return jax.lax.stop_gradient(centre + step)


def squared_distance(
    subspace: Subspace,
    features: jax.Array,
    *,
    kind: Kind,
    lower: float = 0.0,
    upper: float = 1.0,
    iterations: int = 20,
    polish: int = 16,
    solver: Solver = "loops",
) -> jax.Array:
    """Squared distance [..., N] of features [..., N, d] to the subspace; arguments as for `project`.

    Differentiable in `features`, with a gradient that is exact (Danskin) and finite everywhere, also inside the hull.
    """
    nearest = project(
        subspace,
        features,
        kind=kind,
        lower=lower,
        upper=upper,
        iterations=iterations,
        polish=polish,
        solver=solver,
    )
    return jnp.sum(jnp.square(features.astype(jnp.float32) - nearest), axis=-1)
