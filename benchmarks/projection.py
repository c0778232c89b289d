"""The hull projection alone: problems per second and the distance's error against CVX in float64."""

import argparse
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax import subspace
from benchmarks import report, timing
from benchmarks.peers import hulls

COLUMNS = {
    "features": "features",
    "way": "way",
    "problems/s": "problems_per_second.median:,.0f",
    "low": "problems_per_second.low:,.0f",
    "high": "problems_per_second.high:,.0f",
    "error p99": "error_p99:.1e",
    "error max": "error_max:.1e",
    "ours is": "ours_is_faster:,.2f",
}
KINDS = ("clustered", "near-duplicates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--persons", type=int, default=64, help="default %(default)s")
    parser.add_argument("--images", type=int, default=16, help="m, images of a person (default %(default)s)")
    parser.add_argument("--size", type=int, default=512, help="of an embedding (default %(default)s)")
    parser.add_argument("--iterations", type=int, nargs="+", default=[10, 20, 50], help="default 10 20 50")
    parser.add_argument(
        "--polish", type=int, nargs="+", default=[8, 16], help="active-set steps after the iterations (default 8 16)"
    )
    parser.add_argument("--checked", type=int, default=128, help="problems solved by the peers (default %(default)s)")
    parser.add_argument(
        "--no-peers", action="store_true", help="leave the peers' times out, but for CVX, the reference"
    )


def make_problems(kind: str, persons: int, images: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and embeddings [P, m, d], both unit-norm: as a person's are, the embeddings in, near and off the hull.

    "near-duplicates": every second row almost repeats the one before, which makes the Gram matrix ill-conditioned.
    """
    rng = np.random.default_rng(seed)

    def unit(x: np.ndarray) -> np.ndarray:
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    person = unit(rng.normal(size=(persons, 1, size)))
    features = unit(person + 0.8 * unit(rng.normal(size=(persons, images, size))))
    if kind == "near-duplicates":
        features[:, 1::2] = unit(features[:, ::2] + 0.02 * unit(rng.normal(size=features[:, 1::2].shape)))
    mixed = rng.dirichlet(np.full(images, 0.3), (persons, images)).astype(np.float32) @ features
    away = np.linspace(0, 1.5, images)[None, :, None] * unit(rng.normal(size=(persons, images, size)))
    return features, unit(mixed + away)


def run(options: argparse.Namespace) -> report.Outcome:
    """Ours with every number of iterations, and the peers, on the same problems."""
    if options.quick:
        options.persons, options.images, options.size, options.checked, options.repeats = 2, 4, 8, 4, 1
    if not options.no_peers and importlib.util.find_spec("torch"):
        from benchmarks.peers import device

        device.share_memory()
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        rows += measure(kind, options)
    settings = {name: getattr(options, name) for name in ("persons", "images", "size", "checked", "repeats")}
    notes = [
        "error: of the distance to the hull, relative, against CVX (Clarabel, float64).",
        "ours is: how many times faster a problem is than that way's, by the fastest of ours whose error is at most "
        "1e-4.",
    ]
    return report.Outcome(settings, {"rows": rows}, report.table(rows, COLUMNS), notes)


def measure(kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one kind of features."""
    features, embeddings = make_problems(kind, options.persons, options.images, options.size)
    count = features.shape[0] * features.shape[1]
    checked = min(options.checked, count)
    ours: dict[str, Callable[[], Any]] = {}
    spaces = jax.jit(subspace.fit)(jnp.asarray(features))
    given = jnp.asarray(embeddings)
    solvers = ("loops", "kernel") if jax.default_backend() == "gpu" else ("loops",)
    for solver, iterations, polish in itertools.product(solvers, options.iterations, options.polish):
        how = {"iterations": iterations, "polish": polish, "solver": solver}
        solve = jax.jit(lambda s, e, how=how: subspace.weights(s, e, **how))
        name = f"ours, {iterations} iterations, {polish} polish" + ", one kernel" * (solver == "kernel")
        ours[name] = lambda solve=solve: solve(spaces, given)

    flat = [(features[i // options.images], embeddings.reshape(count, -1)[i]) for i in range(checked)]
    peers: dict[str, hulls.Weights] = {"cvxpy, rebuilt": hulls.cvxpy_rebuilt}
    if not options.no_peers:
        peers |= {"cvxpy, parametrised": hulls.CvxpyParametrised(options.images), "scipy NNLS": hulls.scipy_nnls}
    answers: dict[str, np.ndarray] = {}
    peer_calls: dict[str, Callable[[], Any]] = {}
    for name, solver in peers.items():

        def call(name: str = name, solver: hulls.Weights = solver) -> None:
            answers[name] = np.array([solver(*problem) for problem in flat])

        peer_calls[name] = call

    if not options.no_peers and importlib.util.find_spec("torch"):
        import torch

        from benchmarks.peers import device
        from benchmarks.peers.batched_hull import Hulls

        where = device.find()
        prepared, persons = Hulls(torch.from_numpy(features).to(where)), torch.arange(len(features), device=where)
        targets = torch.from_numpy(embeddings.reshape(count, -1)).to(where)

        def batched() -> Any:
            found = prepared.weights(persons, targets, 50)
            device.wait(where)
            return found

        ours_like = {"PyTorch, batched, 50 iterations": batched}
    else:
        ours_like = {}
    timings = timing.alternate({**ours, **ours_like, **peer_calls}, options.repeats)
    reference = np.array([np.linalg.norm(w @ f - e) for w, (f, e) in zip(answers["cvxpy, rebuilt"], flat, strict=True)])
    rows = []
    for name, found in timings.items():
        at_once = name in ours or name in ours_like
        if at_once:
            found_weights = ours[name]() if name in ours else ours_like[name]().cpu()
            made = np.asarray(found_weights).reshape(count, -1)[:checked]
        else:
            made = answers[name]
        error = np.abs(
            [np.linalg.norm(w @ f - e) for w, (f, e) in zip(made.astype(float), flat, strict=True)] - reference
        )
        error /= np.maximum(reference, 1e-3)
        rows.append(
            {"features": kind, "way": name, "problems_per_second": found.rates(count if at_once else checked)}
            | {"error_p99": float(np.percentile(error, 99)), "error_max": float(error.max())}
        )
    exact = [row for row in rows if row["way"] in ours and row["error_max"] <= 1e-4]
    if exact:
        best = max(exact, key=lambda row: row["problems_per_second"]["median"])
        for row in rows:
            if row["way"] not in ours:
                row["ours_is_faster"] = best["problems_per_second"]["median"] / row["problems_per_second"]["median"]
                row["ours"] = best["way"]
    return rows
