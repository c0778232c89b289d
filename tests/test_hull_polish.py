"""Distances to hulls that first-order steps reach slowly, against cvxpy in float64: nearly alike, flat, overfull."""

import functools
import math

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxpr_walk import equations

from advcloak_jax import hull_polish, hull_solver, subspace

M, N, D = 16, 6, 24
SETS = ("nearly duplicates", "flat", "more rows than dimensions", "inside more rows than dimensions", "duplicates")
BOUNDS = [(0.0, 1.0), (-0.1, 0.3)]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_set(name, rng):
    """Features [16, 24] of a person and features [6, 24] near their hull."""
    person = np.eye(D)[0]
    rows = unit(person + 0.7 * unit(rng.normal(size=(M, D))))
    away = unit(rng.normal(size=(N, D)))
    match name:
        case "nearly duplicates":
            rows[M // 2 :] = unit(rows[: M // 2] + 0.01 * unit(rng.normal(size=(M // 2, D))))
            away *= 0.05
        case "flat":  # twelve directions, each of less extent than the one before, down to a hundredth
            rows = unit(person + 0.5 * rng.normal(size=(M, D)) * np.logspace(0, -2, 12).repeat(D // 12))
            away *= 0.02
        case "more rows than dimensions":
            rows = unit(np.eye(8, D)[0] + 0.7 * unit(rng.normal(size=(M, 8)) * np.logspace(0, -1.5, 8)) @ np.eye(8, D))
            away[:, 8:] = 0
        case "inside more rows than dimensions":
            rows = unit(np.eye(8, D)[0] + 0.7 * unit(rng.normal(size=(M, 8)) * np.logspace(0, -1.5, 8)) @ np.eye(8, D))
            away = 0.05 * away
            away[:, :8] = 0
        case "duplicates":
            rows[M // 2 :] = rows[0]
            away *= 0.3
    return rows.astype(np.float32), (rng.dirichlet(np.full(M, 0.3), N) @ rows + away).astype(np.float32)


def cvxpy_distances(rows, points, lower, upper):
    w, point = cvxpy.Variable(M), cvxpy.Parameter(D)
    limits = [cvxpy.sum(w) == 1, w >= lower, w <= upper]
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(rows.astype(np.float64).T @ w - point)), limits)
    found = []
    for point.value in points.astype(np.float64):
        problem.solve(cvxpy.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
        found.append(np.linalg.norm(w.value @ rows - point.value))
    return np.array(found)


@pytest.fixture(scope="module")
def problems():
    rng = np.random.default_rng(0)
    made = [make_set(name, rng) for name in SETS]
    return np.stack([rows for rows, _ in made]), np.stack([points for _, points in made])


def distances(rows, points, **settings):
    found = jax.jit(lambda f, x: subspace.squared_distance(subspace.fit(f), x, kind="convex-hull", **settings))
    return np.sqrt(np.asarray(found(rows, points)))


@pytest.mark.parametrize(("lower", "upper"), BOUNDS)
def test_distance_agrees_with_cvxpy_where_first_order_steps_are_slow(problems, lower, upper):
    rows, points = problems
    expected = np.stack([cvxpy_distances(*problem, lower, upper) for problem in zip(rows, points, strict=True)])
    assert expected.min() > 5e-3
    polished = distances(rows, points, lower=lower, upper=upper)
    np.testing.assert_allclose(polished, expected, rtol=1e-3)
    assert np.quantile(np.abs(polished / expected - 1), 0.9) < 1e-4
    if (lower, upper) == (0.0, 1.0):  # or these sets would show nothing
        unpolished = distances(rows, points, lower=lower, upper=upper, iterations=50, polish=0)
        assert np.abs(unpolished / expected - 1).max() > 5e-3


def test_from_the_class_centre_enough_steps_find_the_minimum(problems):
    """The steps alone are a whole method: they free and bind the weights that projected gradient had right before."""
    rows, points = problems
    fitted = jax.jit(subspace.fit)(rows)
    linear = np.einsum("snd,smd->snm", points - fitted.centre[:, None], fitted.rows) / fitted.scale[:, None, None]
    gram = np.asarray(fitted.gram / fitted.scale[:, None, None])
    start = jnp.full(M, 1 / M)

    def one(gram, linear):
        return hull_polish.polish(start, gram, linear, lower=0.0, upper=1.0, steps=60, algebra=hull_solver.LOOPS)

    found = jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, 0))))(gram, linear)
    nearest = fitted.centre[:, None] + np.einsum("snm,smd->snd", found, fitted.rows)
    np.testing.assert_allclose(np.linalg.norm(points - nearest, axis=-1), distances(rows, points), rtol=2e-3)


@pytest.mark.parametrize(("lower", "upper"), [(0.02, 0.3), (-math.inf, 0.2), (1 / M, 1 / M)])
def test_weights_keep_their_bounds(problems, lower, upper):
    weigh = jax.jit(lambda f, x: subspace.weights(subspace.fit(f), x, lower=lower, upper=upper))
    found = np.asarray(weigh(*problems))
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert found.min() >= lower - 1e-6
    assert found.max() <= upper + 1e-6


def test_polish_never_makes_it_worse(problems):
    rows, _ = problems
    gram = rows @ rows.swapaxes(-1, -2)
    gram /= np.linalg.eigvalsh(gram)[:, -1:, None]
    linear = np.random.default_rng(1).normal(size=(len(SETS), N, M)).astype(np.float32)

    def value(weights):
        return 0.5 * np.einsum("snm,smk,snk->sn", weights, gram, weights) - np.sum(linear * weights, -1)

    settings = {"lower": 0.0, "upper": 1.0, "iterations": 3}
    before = value(np.asarray(hull_solver.solve(gram, linear, **settings), np.float64))
    after = value(np.asarray(hull_solver.solve(gram, linear, polish=8, **settings), np.float64))
    assert (after <= before + 1e-6).all()
    assert (after < before - 1e-5).any()


def test_no_loop_asks_whether_to_go_on():
    """An accelerator would wait for the answer in every step: all loops of the solver run a known number of times."""
    gram, linear = jnp.zeros((2, 4, 4)), jnp.zeros((2, 3, 4))
    solver = functools.partial(hull_solver.solve, lower=0.0, upper=1.0, iterations=7, polish=5)
    loops = [one for one in equations(solver, gram, linear) if one.primitive.name in ("while", "scan")]
    lengths = [loop.params.get("length") for loop in loops]
    assert sorted(lengths) == [4, 5, 7]  # entering the free weights, polishing, projected gradient
