"""Projections onto the three subspaces against cvxpy and closed forms in float64, at ordinary and degenerate places."""

import functools
import math

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from advcloak_jax import hull_solver, subspace
from advcloak_jax.errors import UserError

SETS = ("random", "clustered", "duplicates", "identical", "vertex", "inside", "collinear", "beyond a vertex")
M, N, D = 6, 4, 16
PARITY = 50


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_set(name, rng, m=M, n=N, d=D):
    """Features [m, d] of a person and features [n, d] to project, unit-norm where the name allows it."""
    person = unit(rng.normal(size=d))
    rows = unit(person + 0.7 * unit(rng.normal(size=(m, d))))
    points = unit(rng.normal(size=(n, d)) / math.sqrt(d) + rng.uniform(0, 2, (n, 1)) * person)
    match name:
        case "random":
            rows = unit(rng.normal(size=(m, d)))
        case "duplicates":
            rows[m // 2 :] = rows[0]
        case "identical":
            rows[:] = rows[0]
        case "vertex":
            points = rows[:n].copy()
        case "inside":
            points = rng.dirichlet(np.ones(m), n) @ rows
        case "collinear":
            start, end = unit(rng.normal(size=(2, d)))
            rows = np.linspace(start, end, m)
        case "beyond a vertex":
            points = unit(rows[:n] + 0.5 * (rows[:n] - rows.mean(0)))
    return rows.astype(np.float32), points.astype(np.float32)


def make_sets(seed, **sizes):
    rng = np.random.default_rng(seed)
    made = [make_set(name, rng, **sizes) for name in SETS]
    return np.stack([rows for rows, _ in made]), np.stack([points for _, points in made])


def cvxpy_distance(rows, point, lower, upper):
    w = cvxpy.Variable(len(rows))
    limits = [
        cvxpy.sum(w) == 1,
        *([w >= lower] if lower > -math.inf else []),
        *([w <= upper] if upper < math.inf else []),
    ]
    rows, point = rows.astype(np.float64), np.asarray(point, np.float64)
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(rows.T @ w - point)), limits)
    problem.solve(cvxpy.CLARABEL)
    return np.linalg.norm(w.value @ rows - point)


def affine_distance(rows, point):
    rows, point = rows.astype(np.float64), point.astype(np.float64)
    directions, offset = rows[1:] - rows[0], point - rows[0]
    weights = np.linalg.lstsq(directions.T, offset, rcond=1e-5)[0] if len(directions) else np.zeros(0)
    return np.linalg.norm(offset - weights @ directions)


def distances(rows, points, **settings):
    found = jax.jit(lambda f, x: jnp.sqrt(subspace.squared_distance(subspace.fit(f), x, **settings)))(rows, points)
    assert found.dtype == jnp.float32
    return np.asarray(found)


def assert_distances(found, expected):
    """Within 1e-3 relative; where the true distance is 0, within 1e-4 of it for features of norm 1."""
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 1.0), (-0.1, 0.4)])
def test_hull_distance_agrees_with_cvxpy(lower, upper):
    rows, points = make_sets(0)
    points = points[:, : 4 if upper == 1 else 2]
    found = distances(rows, points, kind="convex-hull", lower=lower, upper=upper, iterations=PARITY)
    expected = [[cvxpy_distance(f, x, lower, upper) for x in xs] for f, xs in zip(rows, points, strict=True)]
    assert_distances(found, expected)


def test_affine_distance_agrees_with_cvxpy_and_least_squares():
    rows, points = make_sets(1)
    found = distances(rows, points, kind="affine-hull")
    expected = np.array([[affine_distance(f, x) for x in xs] for f, xs in zip(rows, points, strict=True)])
    assert_distances(found, expected)
    for place in [(0, 0), (1, 0), (1, 1)]:  # cvxpy fails where many weights are equally good
        assert expected[place] == pytest.approx(cvxpy_distance(rows[place[0]], points[place], -math.inf, math.inf))


def test_affine_distance_sees_directions_in_which_the_features_hardly_vary():
    rng = np.random.default_rng(15)
    axes = np.linalg.qr(rng.normal(size=(64, 8)))[0].T
    for thin in (0.1, 0.01, 0.005):
        spread = 0.3 * rng.normal(size=(16, 6)) * np.array([1, 1, 1, thin, thin, thin])
        rows = (axes[7] + spread @ axes[:6]).astype(np.float32)
        points = (axes[7] + 0.5 * rng.normal(size=(4, 6)) @ axes[:6] + 0.02 * axes[6]).astype(np.float32)
        assert_distances(distances(rows, points, kind="affine-hull"), [affine_distance(rows, x) for x in points])


def test_class_centre_distance_is_to_the_mean():
    rows, points = make_sets(2)
    expected = np.linalg.norm(points.astype(np.float64) - rows.astype(np.float64).mean(1, keepdims=True), axis=-1)
    np.testing.assert_allclose(distances(rows, points, kind="class-centre"), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["class-centre", "affine-hull", "convex-hull"])
def test_one_image_is_its_own_subspace(kind):
    rows, points = make_set("random", np.random.default_rng(3), m=1)
    np.testing.assert_allclose(distances(rows, points, kind=kind), np.linalg.norm(points - rows, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(distances(rows, rows, kind=kind), 0, atol=1e-6)


def test_twenty_iterations_are_close_on_clustered_features():
    rows, points = make_set("clustered", np.random.default_rng(4), m=16, n=6, d=512)
    found = distances(rows, points, kind="convex-hull", iterations=20)
    assert_distances(found, [cvxpy_distance(rows, x, 0, 1) for x in points])


@pytest.mark.parametrize("name", ["clustered", "duplicates", "collinear", "beyond a vertex"])
def test_gradient_points_as_finite_differences_of_cvxpy(name):
    rows, points = make_set(name, np.random.default_rng(5), m=5, n=1, d=5)
    step, axes = 1e-3, np.eye(5)
    expected = [
        cvxpy_distance(rows, points[0] + step * axis, 0, 1) ** 2
        - cvxpy_distance(rows, points[0] - step * axis, 0, 1) ** 2
        for axis in axes
    ]
    found = hull_gradient(rows, points)[0]
    cosine = unit(found) @ unit(np.array(expected))
    assert 1 - cosine < 1e-2
    np.testing.assert_allclose(found, np.array(expected) / (2 * step), atol=2e-3)


@jax.jit
def hull_gradient(rows, points):
    fitted = subspace.fit(rows)
    return jax.grad(lambda x: subspace.squared_distance(fitted, x, kind="convex-hull", iterations=100).sum())(points)


@pytest.mark.parametrize("kind", ["class-centre", "affine-hull", "convex-hull"])
def test_gradient_is_twice_the_way_to_the_nearest_point_and_finite_everywhere(kind):
    rows, points = make_sets(6)
    fitted = subspace.fit(rows)
    gradient, nearest = jax.jit(
        lambda x: (
            jax.grad(lambda y: subspace.squared_distance(fitted, y, kind=kind).sum())(x),
            subspace.project(fitted, x, kind=kind),
        )
    )(points)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient, 2 * (points - nearest), atol=1e-6)
    if kind != "class-centre":
        at_zero_distance = [SETS.index("vertex"), SETS.index("inside")]
        np.testing.assert_allclose(np.asarray(gradient)[at_zero_distance], 0, atol=2e-2)


def test_nothing_flows_through_the_nearest_point_or_to_the_originals():
    rows, points = make_set("clustered", np.random.default_rng(7))
    for kind in ("class-centre", "affine-hull", "convex-hull"):
        gradients = jax.grad(
            lambda f, x, kind=kind: subspace.project(subspace.fit(f), x, kind=kind).sum(), argnums=(0, 1)
        )
        to_rows, to_points = jax.jit(gradients)(rows, points)
        np.testing.assert_array_equal(to_rows, 0)
        np.testing.assert_array_equal(to_points, 0)


def test_one_nan_spoils_only_its_own_lane():
    rows, points = make_sets(8)
    for kind in ("affine-hull", "convex-hull"):
        project = jax.jit(lambda f, x, kind=kind: subspace.project(subspace.fit(f), x, kind=kind))
        clean = np.asarray(project(rows, points))
        bad_point, bad_rows = points.copy(), rows.copy()
        bad_point[1, 2, 3] = np.nan
        bad_rows[2, 0, 0] = np.nan
        spoilt_image = np.isnan(project(rows, bad_point)).any(-1)
        assert np.argwhere(spoilt_image).tolist() == [[1, 2]]
        np.testing.assert_array_equal(np.asarray(project(rows, bad_point))[~spoilt_image], clean[~spoilt_image])
        others = np.arange(len(SETS)) != 2
        np.testing.assert_array_equal(np.asarray(project(bad_rows, points))[others], clean[others])
        assert np.isnan(project(bad_rows, points)[2]).any()


def test_weights_keep_their_bounds_and_make_the_nearest_point():
    rows, points = make_sets(9)
    fitted = subspace.fit(rows)
    for lower, upper in [(0.0, 1.0), (-0.1, 0.4)]:
        found = np.asarray(subspace.weights(fitted, points, lower=lower, upper=upper))
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
        assert found.min() >= lower - 1e-6
        assert found.max() <= upper + 1e-6
        nearest = subspace.project(fitted, points, kind="convex-hull", lower=lower, upper=upper)
        np.testing.assert_allclose(found @ rows, nearest, atol=1e-5)


def test_equal_bounds_are_the_class_centre():
    rows, points = make_sets(10)
    fitted = subspace.fit(rows)
    hull = subspace.project(fitted, points, kind="convex-hull", lower=1 / M, upper=1 / M)
    np.testing.assert_allclose(hull, subspace.project(fitted, points, kind="class-centre"), atol=1e-6)


@pytest.mark.parametrize(
    ("m", "lower", "upper"),
    [
        (1, 0, 1),
        (5, 0, 1),
        (16, 0, 1),
        (16, -0.1, 1),
        (16, 0.02, 0.2),
        (16, 0.02, 1),
        (16, -1, 2),
        (49, 1 / 49, 1 / 49),
        (2, 0, 0.6),
        (16, 0, 1 / 16),
        (16, -math.inf, 0.2),
        (16, 0, math.inf),
    ],
)
def test_weight_projection_agrees_with_bisection(m, lower, upper):
    rng = np.random.default_rng(11)
    tied = rng.integers(0, 3, (20, m)) / 2
    wanted = np.concatenate([rng.normal(size=(20, m)), 30 * rng.normal(size=(20, m)), tied, np.zeros((1, m))])
    wanted = wanted.astype(np.float32)
    found = jax.jit(jax.vmap(lambda w: hull_solver.project_weights(w, lower, upper)))(wanted)
    low = wanted.min(-1, keepdims=True).astype(np.float64) - min(upper, 1) - 50
    high = wanted.max(-1, keepdims=True).astype(np.float64) - max(lower, -1) + 50
    for _ in range(100):
        middle = (low + high) / 2
        too_much = np.clip(wanted - middle, lower, upper).sum(-1, keepdims=True) > 1
        low, high = np.where(too_much, middle, low), np.where(too_much, high, middle)
    np.testing.assert_allclose(found, np.clip(wanted - low, lower, upper), atol=1e-5)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(0.5, 1.0), (0.0, 0.1), (0.4, 0.3), (-math.inf, math.inf), (math.nan, 1.0), (math.inf, math.inf)],
)
def test_impossible_bounds_are_refused(lower, upper):
    rows, points = make_set("random", np.random.default_rng(12))
    with pytest.raises(UserError, match=r"bound|sum to 1"):
        subspace.project(subspace.fit(rows), points, kind="convex-hull", lower=lower, upper=upper)


def test_same_result_alone_in_scan_in_pmap_and_in_shard_map():
    rows, points = make_sets(13)
    project = functools.partial(subspace.project, kind="convex-hull")

    def distance_and_gradient(f, x):
        return jax.value_and_grad(lambda y: jnp.sum(jnp.square(y - project(subspace.fit(f), y))))(x)[1]

    together = np.asarray(jax.jit(distance_and_gradient)(rows, points))
    scanned = jax.jit(
        lambda *arrays: jax.lax.scan(lambda _, pair: (None, distance_and_gradient(*pair)), None, arrays)[1]
    )
    np.testing.assert_allclose(scanned(rows, points), together, atol=1e-5)
    devices = jax.devices()[:2]
    shares = [array.reshape(len(devices), -1, *array.shape[1:]) for array in (rows, points)]
    mapped = jax.pmap(distance_and_gradient, devices=devices)(*shares)
    np.testing.assert_allclose(np.asarray(mapped).reshape(together.shape), together, atol=1e-5)
    sharded = jax.jit(
        jax.shard_map(
            distance_and_gradient,
            mesh=Mesh(np.array(devices), ("data",)),
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec("data"),
            check_vma=False,
        )
    )
    np.testing.assert_allclose(sharded(rows, points), together, atol=1e-5)


def test_half_precision_features_are_projected_in_float32():
    rows, points = make_set("clustered", np.random.default_rng(14))
    half = jnp.asarray(points, jnp.bfloat16)
    fitted = subspace.fit(rows)
    for kind in ("class-centre", "affine-hull", "convex-hull"):
        nearest = subspace.project(fitted, half, kind=kind)
        assert nearest.dtype == jnp.float32
        np.testing.assert_array_equal(nearest, subspace.project(fitted, half.astype(jnp.float32), kind=kind))
