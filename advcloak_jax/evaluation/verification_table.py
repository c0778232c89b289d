"""What was measured of recognisers on pairs, as a text table and as CSV."""

import csv
import io
from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Mapping[str, Any]]
"""By recogniser: `verification.measures` with "rank1" (None: unknown persons) and "images_per_second" (None: too few).
"""


def text_table(results: Results) -> str:
    """Aligned columns, a recogniser a line; "-" is what could not be measured.

    Accuracies over folds are shown as mean +- standard deviation, in %; others are balanced, at the best threshold.
    """
    first = next(iter(results.values()))
    folds = first["folds"]
    accuracy = "best accuracy" if folds is None else f"accuracy, {folds['number']} folds"
    head = ["recogniser", "AUC", accuracy, *(f"TAR@FAR {rate}" for rate in first["tar"]), "EER", "rank-1", "faces/s"]
    rows = [head]
    for name, one in results.items():
        if one["folds"] is None:
            shown = _number(one["accuracy"])
        else:
            shown = f"{100 * one['folds']['accuracy']:.2f} +- {100 * one['folds']['std']:.2f} %"
        rates = [_number(rate) for rate in one["tar"].values()]
        speed = _number(one["images_per_second"], 1)
        rows.append([name, _number(one["auc"]), shown, *rates, _number(one["eer"]), _number(one["rank1"]), speed])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def to_csv(results: Results) -> str:
    """One line a recogniser, under a header; empty cells are what could not be measured."""
    rows = []
    for name, one in results.items():
        folds = one["folds"] or {}
        rows.append(
            {
                "recogniser": name,
                **{key: one[key] for key in ("same_pairs", "different_pairs", "auc", "accuracy", "threshold")},
                **{f"folds_{key}": folds.get(key) for key in ("number", "accuracy", "std", "standard_error")},
                "folds_balanced_accuracy": folds.get("balanced_accuracy"),
                **{f"tar_at_far_{rate}": value for rate, value in one["tar"].items()},
                **{key: one[key] for key in ("eer", "rank1", "images_per_second")},
            }
        )
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
