"""The protection table: from ranks to rows, and rows as text, CSV and JSON."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from advcloak_jax.evaluation import bootstrap
from advcloak_jax.evaluation.identification import protection

AVERAGE = "average"
COMMON = "average, black boxes of all rows"
MEANS = (AVERAGE, COMMON)
RANKS = (1, 5, 10)


class Estimate(NamedTuple):
    """A mean over persons and its bootstrap interval."""

    value: float
    low: float
    high: float


class ProtectionRow(NamedTuple):
    """One method. `rates`: target -> rank k -> protection rate in percent; `AVERAGE`, of several targets, comes first.

    A target that is the row's own surrogate is missing, and not in the average either; where rows differ in that,
    `COMMON` is the average over the targets that are black boxes for all of them, which can be compared between rows.
    ssim and psnr [dB]: means over the protected test images, None for the unprotected row. source: the model that the
    masks were made against; kind: of masks; both empty for rows that need none.
    """

    method: str
    rates: Mapping[str, Mapping[int, Estimate]]
    ssim: float | None = None
    psnr: float | None = None
    source: str = ""
    kind: str = ""


class Difference(NamedTuple):
    """Protection of `method` minus that of `baseline` over the same persons, in percentage points."""

    method: str
    baseline: str
    target: str
    k: int
    estimate: Estimate
    source: str = ""


Ranks = Mapping[str, np.ndarray]  # target -> [P, T, T] int32 from identification.ranks


def protection_row(
    method: str,
    ranks: Ranks,
    *,
    ks: Sequence[int] = RANKS,
    common: Sequence[str] = (),
    seed: int = 0,
    samples: int = 2000,
    ssim: float | None = None,
    psnr: float | None = None,
    source: str = "",
    kind: str = "",
) -> ProtectionRow:
    """Rates of one method on every target and, where there are several, on average; with intervals over persons.

    ranks: per target, of the same persons in the same order. The average is taken per person before resampling,
    because a person's luck is shared by the targets. common: targets of the `COMMON` average, none for no such average.
    """
    per_person = _per_person(ranks, ks)
    if len(ranks) == 1 and not common:
        del per_person[AVERAGE]
    if common:
        average = _average({target: per_person[target] for target in common}, ks)
        per_person = {name: per_person[name] for name in per_person if name == AVERAGE} | {COMMON: average} | per_person
    rates = {
        target: {
            k: Estimate(float(values.mean()), *bootstrap.interval(values, seed=seed, samples=samples))
            for k, values in per_k.items()
        }
        for target, per_k in per_person.items()
    }
    return ProtectionRow(method, rates, ssim, psnr, source, kind)


def difference(
    method: str,
    ranks: Ranks,
    baseline: str,
    baseline_ranks: Ranks,
    *,
    k: int = 1,
    target: str = AVERAGE,
    seed: int = 0,
    samples: int = 2000,
    source: str = "",
) -> Difference:
    """Paired comparison of two methods on one target or, by default, on the average of the targets that both have."""
    shared = [name for name in ranks if name in baseline_ranks]
    ours, theirs = (
        _per_person({name: one[name] for name in shared}, (k,))[target][k] for one in (ranks, baseline_ranks)
    )
    found = Estimate(*bootstrap.paired_difference(ours, theirs, seed=seed, samples=samples))
    return Difference(method, baseline, target, k, found, source)


def to_json(rows: Sequence[ProtectionRow]) -> list[dict[str, Any]]:
    """The rows as nested dictionaries, ready for `json.dumps`."""
    return [
        {
            "source": row.source,
            "kind": row.kind,
            "method": row.method,
            "protection": {
                target: {f"top{k}": estimate._asdict() for k, estimate in per_k.items()}
                for target, per_k in row.rates.items()
            },
            "ssim": row.ssim,
            "psnr": row.psnr if row.psnr is None or np.isfinite(row.psnr) else None,
        }
        for row in rows
    ]


def to_csv(rows: Sequence[ProtectionRow]) -> str:
    """One line per row, target and rank, unrounded."""
    lines = [
        [row.source, row.kind, row.method, target, k, *estimate, row.ssim, row.psnr]
        for row in rows
        for target, per_k in row.rates.items()
        for k, estimate in per_k.items()
    ]
    return csv_text(["source", "kind", "method", "target", "k", "protection", "low", "high", "ssim", "psnr"], lines)


def differences_csv(rows: Sequence[Difference]) -> str:
    """One line per comparison, target and rank, unrounded."""
    lines = [[row.source, row.method, row.baseline, row.target, row.k, *row.estimate] for row in rows]
    return csv_text(["source", "method", "baseline", "target", "k", "difference", "low", "high"], lines)


def csv_text(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A CSV file's text; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([head, *lines])
    return out.getvalue()


def number(value: float | None, digits: int) -> str:
    """A figure for a table cell; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def targets_of(rows: Sequence[ProtectionRow]) -> list[str]:
    """Names of all targets, without the averages, in the order of the row that has most."""
    return [name for name in max(rows, key=lambda row: len(row.rates)).rates if name not in MEANS]


def _per_person(ranks: Ranks, ks: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
    """Protection rate of each person, target -> k -> [P], with their average first."""
    rates = {target: {k: protection(one, k) for k in ks} for target, one in ranks.items()}
    return {AVERAGE: _average(rates, ks)} | rates


def _average(rates: Mapping[str, Mapping[int, np.ndarray]], ks: Sequence[int]) -> dict[int, np.ndarray]:
    return {k: np.mean([per_k[k] for per_k in rates.values()], axis=0) for k in ks}
