"""The hull solved in one kernel of a GPU: interpreted here against the loops, lowered for CUDA, refused elsewhere."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from test_hull_polish import BOUNDS, SETS, D, M, make_set

from advcloak_jax import hull_kernel, hull_solver, subspace
from advcloak_jax.config import PersonConfig
from advcloak_jax.errors import UserError
from advcloak_jax.jobs import cloak

STEPS = {"iterations": 20, "polish": 16}


def make_problems(images: int = M) -> tuple[np.ndarray, np.ndarray, np.ndarray, subspace.Subspace]:
    """Scaled Gram matrices [P, m, m], linear terms [P, N, m], points [P, N, d] and spaces, of every set of features."""
    rng = np.random.default_rng(0)
    made = [make_set(name, rng) for name in SETS]
    points = np.stack([points for _, points in made])
    spaces = subspace.fit(jnp.asarray(np.stack([rows[:images] for rows, _ in made])))
    linear = np.einsum("pnd,pmd->pnm", points - spaces.centre[:, None], spaces.rows)
    scale = np.asarray(spaces.scale)[:, None, None]
    return np.asarray(spaces.gram) / scale, linear / scale, points, spaces


def distances(weights: jax.Array, points: np.ndarray, spaces: subspace.Subspace) -> np.ndarray:
    nearest = spaces.centre[:, None] + np.einsum("pnm,pmd->pnd", weights, spaces.rows)
    return np.linalg.norm(points - nearest, axis=-1)


@pytest.mark.parametrize(("lower", "upper"), BOUNDS)
@pytest.mark.parametrize("images", [4, M])
def test_finds_the_distances_that_the_loops_find(images: int, lower: float, upper: float) -> None:
    gram, linear, points, spaces = make_problems(images)
    bounds = {"lower": lower, "upper": upper}
    looped = distances(hull_solver.solve(gram, linear, **bounds, **STEPS), points, spaces)
    kernel = distances(hull_kernel.solve(gram, linear, **bounds, **STEPS, interpret=True), points, spaces)
    np.testing.assert_allclose(kernel, looped, rtol=1e-4)
    unpolished = hull_solver.solve(gram, linear, **bounds, iterations=STEPS["iterations"])
    if images == M:  # the comparison would see a kernel that leaves the polish out
        assert np.abs(distances(unpolished, points, spaces) / looped - 1).max() > 1e-3


def test_weights_keep_their_bounds_and_leading_axes_their_shape() -> None:
    gram, linear, _, _ = make_problems()
    solve = functools.partial(hull_kernel.solve, lower=-0.1, upper=0.3, **STEPS, interpret=True)
    found = solve(gram[None], linear[None])
    assert found.shape == (1, *linear.shape)
    np.testing.assert_array_equal(found[0], solve(gram, linear))
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert found.min() >= -0.1 - 1e-6
    assert found.max() <= 0.3 + 1e-6


def test_a_nan_stays_in_its_problem() -> None:
    gram, linear, _, _ = make_problems()
    solve = functools.partial(hull_kernel.solve, lower=0.0, upper=1.0, **STEPS, interpret=True)
    damaged = linear.copy()
    damaged[1, 2, 3] = np.nan
    found = np.array(solve(gram, damaged))
    assert np.isnan(found[1, 2]).all()
    found[1, 2] = solve(gram, linear)[1, 2]
    np.testing.assert_array_equal(found, solve(gram, linear))


def test_devices_that_share_the_persons_solve_their_own() -> None:
    gram, linear, _, _ = make_problems()
    gram, linear = gram[:4], linear[:4]
    solve = functools.partial(hull_kernel.solve, lower=0.0, upper=1.0, **STEPS, interpret=True)
    mesh = Mesh(np.array(jax.devices()[:2]), ("devices",))
    spread = P("devices")
    shared = jax.shard_map(solve, mesh=mesh, in_specs=(spread, spread), out_specs=spread, check_vma=False)
    np.testing.assert_array_equal(jax.jit(shared)(gram, linear), solve(gram, linear))


@pytest.mark.parametrize("images", [2, 16, 64])
@pytest.mark.parametrize(("lower", "upper"), [(0.0, 1.0), (-0.1, 0.6)])
def test_lowers_for_cuda_to_one_call_that_is_given_the_whole_loop(
    monkeypatch: pytest.MonkeyPatch, images: int, lower: float, upper: float
) -> None:
    """Triton takes only some of JAX's operations: it says here, without a GPU, whether it takes all of the solver's."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    spaces = jax.eval_shape(subspace.fit, jax.ShapeDtypeStruct((3, images, D), jnp.float32))
    points = jax.ShapeDtypeStruct((3, 5, D), jnp.float32)
    settings = {"lower": lower, "upper": upper, "solver": "kernel"}
    weigh = jax.jit(lambda s, x: subspace.weights(s, x, **settings))
    text = weigh.trace(spaces, points).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("xla.gpu.triton") + text.count("triton_kernel_call") == 1
    assert "stablehlo.while" not in text
    assert "hull_projection" in text


def test_refuses_what_it_cannot_hold_and_devices_it_cannot_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="needs a GPU, but JAX computes on cpu; use --projection-solver loops"):
        hull_kernel.solve(jnp.eye(4)[None], jnp.zeros((1, 1, 4)), lower=0.0, upper=1.0, iterations=1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for images in (1, 5, 128):
        with pytest.raises(UserError, match=f"not {images}"):
            hull_kernel.require_usable(images)
    hull_kernel.require_usable(16)


def test_stage_two_is_refused_before_anything_is_loaded() -> None:
    split = SimpleNamespace(generator_images=np.zeros((3, 4), int))
    with pytest.raises(UserError, match="needs a GPU"):
        cloak.build_person(PersonConfig(projection_solver="kernel", surrogate="none such"), None, split)  # type: ignore[arg-type]
    # Where no hull is projected onto, it goes on to what is missing next.
    plain = PersonConfig(projection_solver="kernel", surrogate="none such", subspace="plain")
    with pytest.raises(UserError, match="none such"):
        cloak.build_person(plain, None, split)  # type: ignore[arg-type]
