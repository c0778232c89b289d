"""From the measurements of `evaluate.py table` to JSON and to the report page."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advcloak_jax import presets, settings
from advcloak_jax.config import TableConfig
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import figures, tables
from advcloak_jax.evaluation.cost import Cost
from advcloak_jax.evaluation.report import Picture, RecognizerRow, Report, Setting, build_report
from advcloak_jax.jobs.measure import Worn
from advcloak_jax.training import runs
from advcloak_jax.training.metrics import read_metrics
from advcloak_jax.training.runs import Run

_log = logging.getLogger("advcloak_jax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Everything measured. summaries: (recogniser, role, verification.summary) on protected persons' clean images.

    recogniser_folders: runs of the recognisers that were trained here. account: what the store computed and took;
    not_kept: targets whose embeddings it cannot keep.
    """

    config: TableConfig
    cloak_runs: Sequence[Run]
    recogniser_folders: Sequence[Path]
    rows: Sequence[tables.ProtectionRow]
    differences: Sequence[tables.Difference]
    summaries: Sequence[tuple[str, str, Mapping[str, Any]]]
    facts: Sequence[tuple[str, str]]
    costs: Sequence[Cost]
    account: Mapping[str, Mapping[str, Sequence[str]]]
    not_kept: Sequence[str]


def picture_grid(worn: Worn, test: np.ndarray, persons: int) -> bytes:
    """PNG of original, mask and protected image of the first persons."""
    count = min(persons, len(test))
    return figures.face_grid(test[:count, 0], worn.masks[:count], worn.protected[:count, 0])


def to_json(result: Result, seconds: float) -> dict[str, Any]:
    """The whole result with what it was made with."""
    return {
        "code": runs.code_version(),
        "settings": settings.to_dict(result.config),
        "facts": dict(result.facts),
        "seconds": round(seconds, 1),
        "costs": [one._asdict() for one in result.costs if result.config.timed],
        "cache": {**result.account, "not kept": list(result.not_kept)},
        "protection": tables.to_json(result.rows),
        "differences": [{**one._asdict(), "estimate": one.estimate._asdict()} for one in result.differences],
        "recognisers": [
            {"name": name, "role": role, **{key: value for key, value in summary.items() if key != "histogram"}}
            for name, role, summary in result.summaries
        ],
    }


def build(result: Result, grid: bytes, seconds: float) -> str:
    """The report page as HTML."""
    method = result.rows[-1].method
    return build_report(
        Report(
            title="AdvCloak-JAX: protection against recognisers that no cloak was trained on",
            lead=(
                "Each protected person wears a mask on every photo. A recogniser is given the protected photo and "
                "looks for the person among one clean photo of theirs and the distractors."
            ),
            facts=[*result.facts, ("Seconds", f"{seconds:.0f}")],
            protection=result.rows,
            differences=result.differences,
            costs=result.costs if result.config.timed else (),
            notes=_notes(),
            faces=[
                Picture(image=grid, caption=f"{method}, one person a row", alt="original, mask and protected faces")
            ],
            recognizers=[RecognizerRow(name=n, role=role, summary=summary) for n, role, summary in result.summaries],
            histograms=[
                Picture(
                    image=figures.cosine_histogram(**summary["histogram"], title=n, threshold=summary["threshold"]),
                    caption=f"{n}: cosines of pairs, clean photos of the protected persons",
                    alt=f"histogram of cosine similarities of {n}",
                )
                for n, _, summary in result.summaries
            ],
            curves=_curves(result),
            settings=_settings(result),
        )
    )


def _notes() -> list[str]:
    return [
        "Unprotected is the same protocol without a mask. Random mask is independent normal noise of the same norm, "
        "one per person. AdvFaces makes a mask for each image, AdvFaces+ averages them over the person's images; "
        "AdvCloak's generator learnt in stage II to make one mask per person. All masks have the same L2 norm.",
    ]


def _curves(result: Result) -> list[Picture]:
    """Loss curves of the cloaks' and the recognisers' runs, as far as their metrics are there."""
    panels = {
        "recognizer": (("loss",), ("validation_auc",)),
        "gan": (("discriminator", "gan"), ("adversarial", "validation_image", "validation_person"), ("norm",)),
    }
    pictures = []
    for folder in [*result.recogniser_folders, *(run.folder for run in result.cloak_runs)]:
        try:
            rows = read_metrics(folder)
        except UserError as error:
            _log.warning("the report is without the curves of %s: %s", folder, error)
            continue
        kind = "recognizer" if runs.read_run(folder).job == "recognizer" else "gan"
        for names in panels[kind]:
            curves = []
            for name in names:
                points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
                if points:
                    curves.append(figures.Curve(name, *zip(*points, strict=True)))
            title = f"{folder.name}: {', '.join(names)}"
            image = figures.loss_curves(folder.name, curves)
            pictures.append(Picture(image=image, caption=title, alt=f"curves of {title}"))
    return pictures


def _settings(result: Result) -> list[Setting]:
    found = []
    for folder in [*result.recogniser_folders, *(run.folder for run in result.cloak_runs)]:
        for name, paper, value in presets.changes(runs.read_run(folder).config):
            found.append(Setting(name=f"{folder.name}: {name}", value=str(value), paper=str(paper)))
    return found
