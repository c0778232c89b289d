"""The protection table: from ranks to rows, and rows as text, CSV and JSON."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from advcloak_jax.evaluation import bootstrap
from advcloak_jax.evaluation.identification import protection

AVERAGE = "average"


class Estimate(NamedTuple):
    """A mean over persons and its bootstrap interval."""

    value: float
    low: float
    high: float


class ProtectionRow(NamedTuple):
    """One method. `rates`: target -> rank k -> protection rate in percent; `AVERAGE`, of several targets, comes first.

    ssim and psnr [dB]: means over the protected test images, None for the unprotected row.
    """

    method: str
    rates: Mapping[str, Mapping[int, Estimate]]
    ssim: float | None = None
    psnr: float | None = None


class Difference(NamedTuple):
    """Protection of `method` minus that of `baseline` over the same persons, in percentage points."""

    method: str
    baseline: str
    target: str
    k: int
    estimate: Estimate


Ranks = Mapping[str, np.ndarray]  # target -> [P, T, T] int32 from identification.ranks


def protection_row(
    method: str,
    ranks: Ranks,
    *,
    ks: Sequence[int] = (1, 5, 10),
    seed: int = 0,
    ssim: float | None = None,
    psnr: float | None = None,
) -> ProtectionRow:
    """Rates of one method on every target and, where there are several, on average; with intervals over persons.

    ranks: per target, of the same persons in the same order. The average is taken per person before resampling,
    because a person's luck is shared by the targets.
    """
    rates = {
        target: {
            k: Estimate(float(values.mean()), *bootstrap.interval(values, seed=seed)) for k, values in per_k.items()
        }
        for target, per_k in _per_person(ranks, ks).items()
        if target != AVERAGE or len(ranks) > 1
    }
    return ProtectionRow(method, rates, ssim, psnr)


def difference(
    method: str, ranks: Ranks, baseline: str, baseline_ranks: Ranks, *, k: int = 1, target: str = AVERAGE, seed: int = 0
) -> Difference:
    """Paired comparison of two methods on one target or, by default, on their average."""
    ours, theirs = (_per_person(one, (k,))[target][k] for one in (ranks, baseline_ranks))
    return Difference(method, baseline, target, k, Estimate(*bootstrap.paired_difference(ours, theirs, seed=seed)))


def text_table(rows: Sequence[ProtectionRow]) -> str:
    """Aligned columns for a terminal, one block a target: protection rate in percent and, in brackets, its interval."""
    ks = list(next(iter(rows[0].rates.values())))
    lines = [["Protection rate, %", *(f"top-{k}" for k in ks), "SSIM", "PSNR, dB"]]
    for target in rows[0].rates:
        lines.append([target])
        for row in rows:
            rates = [f"{e.value:.1f} [{e.low:.1f}, {e.high:.1f}]" for e in row.rates[target].values()]
            lines.append([f"  {row.method}", *rates, number(row.ssim, 3), number(row.psnr, 1)])
    widths = [max(len(line[i]) for line in lines if len(line) > i) for i in range(len(lines[0]))]
    texts = [
        "  ".join(
            f"{cell:{'>' if i else '<'}{width}}" for i, (cell, width) in enumerate(zip(line, widths, strict=False))
        )
        for line in lines
    ]
    return "\n".join(text.rstrip() for text in texts)


def to_json(rows: Sequence[ProtectionRow]) -> list[dict[str, Any]]:
    """The rows as nested dictionaries, ready for `json.dumps`."""
    return [
        {
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
    """One line per method, target and rank, unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "target", "k", "protection", "low", "high", "ssim", "psnr"])
    for row in rows:
        for target, per_k in row.rates.items():
            for k, estimate in per_k.items():
                writer.writerow([row.method, target, k, *estimate, row.ssim, row.psnr])
    return out.getvalue()


def number(value: float | None, digits: int) -> str:
    """A figure for a table cell; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _per_person(ranks: Ranks, ks: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
    """Protection rate of each person, target -> k -> [P], with their average first."""
    rates = {target: {k: protection(one, k) for k in ks} for target, one in ranks.items()}
    average = {k: np.mean([per_k[k] for per_k in rates.values()], axis=0) for k in ks}
    return {AVERAGE: average} | rates
