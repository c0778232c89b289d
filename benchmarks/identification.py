"""1:N evaluation: probe x gallery comparisons per second, against a sort per trial and faiss."""

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from advcloak_jax.evaluation import identification
from benchmarks import report, timing

COLUMNS = {
    "distractors": "distractors:,d",
    "way": "way",
    "comparisons/s": "comparisons_per_second.median:.3g",
    "low": "comparisons_per_second.low:.3g",
    "high": "comparisons_per_second.high:.3g",
    "seconds for all": "seconds:.3f",
    "trials that agree": "agreement:.4f",
    "ours is": "ours_is_faster:.1f",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--persons", type=int, default=500, help="default %(default)s, as Privacy-Commons")
    parser.add_argument("--test", type=int, default=5, help="test images of a person (default %(default)s)")
    parser.add_argument("--distractors", type=int, nargs="+", default=[10_000, 100_000], help="default 10000 100000")
    parser.add_argument("--size", type=int, default=512, help="of an embedding (default %(default)s)")
    parser.add_argument("--sorted", type=int, default=20, help="trials that are sorted and extrapolated (default 20)")
    parser.add_argument("--no-peers", action="store_true", help="measure ours only")


def run(options: argparse.Namespace) -> report.Outcome:
    """Every number of distractors."""
    if options.quick:
        options.persons, options.test, options.distractors, options.size = 4, 3, [50], 16
        options.repeats, options.sorted = 1, 4
    rows: list[dict[str, Any]] = []
    for distractors in options.distractors:
        rows += measure(distractors, options)
    settings = {name: getattr(options, name) for name in ("persons", "test", "size", "sorted", "repeats")}
    notes = [
        "comparisons: probe images x (distractors + mates); a sort makes one trial's at a time, for every mate anew.",
        f"a sort per trial is timed on {options.sorted} trials and extrapolated; the others make all trials.",
    ]
    return report.Outcome(settings, {"rows": rows}, report.table(rows, COLUMNS), notes)


def make_embeddings(options: argparse.Namespace, distractors: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probes and mates [P, T, d] that resemble each other weakly, and distractors [M, d], unit-norm."""
    rng = np.random.default_rng(0)

    def unit(x: np.ndarray) -> np.ndarray:
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    shape = (options.persons, options.test, options.size)
    person = unit(rng.normal(size=(options.persons, 1, options.size)).astype(np.float32))
    mates = unit(person + unit(rng.normal(size=shape).astype(np.float32)))
    probes = unit(0.35 * person + unit(rng.normal(size=shape).astype(np.float32)))
    return probes, mates, unit(rng.standard_normal((distractors, options.size), np.float32))


def trials(probes: np.ndarray) -> list[tuple[int, int, int]]:
    """(person, probe image, mate image) of every trial."""
    persons, images = probes.shape[:2]
    return [(p, i, j) for p in range(persons) for i in range(images) for j in range(images) if i != j]


def sorted_ranks(probes: np.ndarray, mates: np.ndarray, distractors: np.ndarray, count: int) -> list[int]:
    """Rank of the mate in `count` trials spread over all, each by sorting its own gallery's similarities."""
    every = trials(probes)
    found = []
    for p, i, j in every[:: max(1, len(every) // count)][:count]:
        gallery = np.concatenate([mates[p, j][None], distractors])
        order = np.argsort(-(gallery @ probes[p, i]), kind="stable")
        found.append(int(np.flatnonzero(order == 0)[0]))
    return found


def faiss_hits(index: Any, probes: np.ndarray, mates: np.ndarray, k: int) -> np.ndarray:
    """Whether the mate of each trial is among the k most similar, [P, T, T], with an index of the distractors.

    The k-th best distractor of each probe decides all its trials, so that one search serves every mate.
    """
    flat = probes.reshape(-1, probes.shape[-1])
    similarities, _ = index.search(flat, k)
    to_mates = np.einsum("pid,pjd->pij", probes, mates)
    return to_mates >= similarities[:, k - 1].reshape(*probes.shape[:2], 1)


def measure(distractors: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of ours and the peers on the same embeddings."""
    probes, mates, gallery = make_embeddings(options, distractors)
    count = len(trials(probes))
    comparisons = probes.shape[0] * probes.shape[1] * (distractors + options.test - 1)
    answers: dict[str, np.ndarray] = {}

    def ours() -> None:
        answers["ours"] = identification.ranks(probes, mates, gallery)

    calls: dict[str, Callable[[], Any]] = {"ours": ours}
    if not options.no_peers:
        for k in (1, 5):
            if importlib.util.find_spec("faiss"):
                calls[f"faiss IndexFlatIP, top {k}"] = lambda k=k: answers.__setitem__(
                    f"faiss IndexFlatIP, top {k}", _faiss(gallery, probes, mates, k)
                )
    timings = timing.alternate(calls, options.repeats)
    rows = []
    off_diagonal = ~np.eye(options.test, dtype=bool)[None].repeat(options.persons, 0)
    for name, found in timings.items():
        row: dict[str, Any] = {"distractors": distractors, "way": name, "seconds": found.median}
        row["comparisons_per_second"] = found.rates(comparisons)
        if name != "ours":
            k = int(name.split()[-1])
            same = (answers["ours"] < k) == answers[name]
            row["agreement"] = float(same[off_diagonal].mean())
            row["ours_is_faster"] = found.median / timings["ours"].median
        rows.append(row)
    if not options.no_peers:
        rows.append(_sorted_row(probes, mates, gallery, answers["ours"], count, timings["ours"].median, options))
    return rows


def _faiss(gallery: np.ndarray, probes: np.ndarray, mates: np.ndarray, k: int) -> np.ndarray:
    """From the distractors to every trial's answer; building a flat index only copies them."""
    import faiss

    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return faiss_hits(index, probes, mates, k)


def _sorted_row(
    probes: np.ndarray,
    mates: np.ndarray,
    gallery: np.ndarray,
    ours: np.ndarray,
    count: int,
    seconds: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    taken = []
    for _ in range(options.repeats):
        began = time.perf_counter()
        ranks = sorted_ranks(probes, mates, gallery, options.sorted)
        taken.append((time.perf_counter() - began) * count / len(ranks))
    every = trials(probes)
    chosen = every[:: max(1, len(every) // options.sorted)][: options.sorted]
    found = timing.Timing(taken[0], tuple(taken))
    same = [ours[trial] == rank for trial, rank in zip(chosen, ranks, strict=True)]
    return {
        "distractors": len(gallery),
        "way": "a sort per trial (numpy)",
        "seconds": found.median,
        "comparisons_per_second": found.rates(count * (len(gallery) + 1)),
        "agreement": float(np.mean(same)),
        "ours_is_faster": found.median / seconds,
    }
