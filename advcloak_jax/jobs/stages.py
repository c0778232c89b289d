"""What each stage adds: stage I (Fig. 3c), and stage II by image, by person and with a subspace (Fig. 3d)."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from advcloak_jax.config import NO_STAGE_ONE, PersonConfig
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import layouts, tables
from advcloak_jax.evaluation.ablation_figures import bars, boxes
from advcloak_jax.evaluation.tables import AVERAGE, Difference, ProtectionRow
from advcloak_jax.jobs.entries import Entry
from advcloak_jax.jobs.measure import Measured

_log = logging.getLogger("advcloak_jax")

Tried = tuple[Entry, Measured]


@dataclasses.dataclass(frozen=True)
class Found:
    """Paired differences between the stages, and the plots by name and format."""

    differences: Sequence[Difference]
    plots: Mapping[str, Mapping[str, bytes]]


def stages(measured: Sequence[Tried], rows: Sequence[ProtectionRow], *, seed: int, samples: int) -> Found:
    """Compare the runs of each surrogate by what their settings say of the stages.

    measured, rows: person-specific rows in the same order. Raises UserError when no pair of runs can be compared; says
    which plot is left out and what it needs.
    """
    skipped = [
        (one, other)
        for one in measured
        if _skips_stage_one(one)
        for other in measured
        if _only_differs_there(one, other)
    ]
    gains = [
        (one, base)
        for base in measured
        if not isinstance(_config(base), PersonConfig)
        for one in measured
        if one[0].source is base[0].source and isinstance(_config(one), PersonConfig) and not _skips_stage_one(one)
    ]
    if not skipped and not gains:
        raise UserError(
            "stages compares runs of one surrogate: name in --cloaks one of `train.py image` and one of "
            "`train.py person`, or two of person, one of them with --generator none."
        )
    differences = [
        tables.difference(
            one[0].cloak.name,
            one[1].ranks,
            base[0].cloak.name,
            base[1].ranks,
            k=k,
            target=target,
            seed=seed,
            samples=samples,
            source=one[0].source.label if one[0].source else "",
        )
        for one, base in [*((other, without) for without, other in skipped), *gains]
        for k in layouts.SHOWN
        for target in (AVERAGE, *one[1].ranks)
    ]
    plots = {}
    if skipped:
        plots["stages-image-specific"] = _with_and_without(skipped, dict(zip(map(id, measured), rows, strict=True)))
    else:
        _log.warning("no plot of Fig. 3c: it needs a run of `train.py person --generator none` beside its like")
    if gains:
        plots["stages-person-specific"] = _gains([one for one in differences if _is_gain(one, gains)])
    else:
        _log.warning("no plot of Fig. 3d: it needs a run of `train.py image` that others started from")
    return Found(differences, plots)


def _config(tried: Tried) -> object:
    run = tried[0].run
    assert run is not None
    return run.config


def _skips_stage_one(tried: Tried) -> bool:
    config = _config(tried)
    return isinstance(config, PersonConfig) and config.generator == NO_STAGE_ONE


def _only_differs_there(one: Tried, other: Tried) -> bool:
    """Whether `other` is the same stage II, started from stage I."""
    mine, its = _config(one), _config(other)
    if not (isinstance(mine, PersonConfig) and isinstance(its, PersonConfig)) or _skips_stage_one(other):
        return False
    return one[0].source is other[0].source and (mine.subspace, mine.masks) == (its.subspace, its.masks)


def _with_and_without(pairs: Sequence[tuple[Tried, Tried]], rows: Mapping[int, ProtectionRow]) -> dict[str, bytes]:
    """Top-1 of each target that is a black box for all, without stage I and with it."""
    shown = [rows[id(tried)] for pair in pairs for tried in pair]
    targets = [name for name in tables.targets_of(shown) if all(name in row.rates for row in shown)]
    series = {f"{row.method} ({row.source})": [row.rates[target][1] for target in targets] for row in shown}
    label = "top-1 protection, %"
    return {"png": bars(targets, series, y_label=label), "svg": bars(targets, series, y_label=label, form="svg")}


def _is_gain(difference: Difference, gains: Sequence[tuple[Tried, Tried]]) -> bool:
    names = {(one[0].cloak.name, base[0].cloak.name) for one, base in gains}
    return (difference.method, difference.baseline) in names


def _gains(differences: Sequence[Difference]) -> dict[str, bytes]:
    """Points gained over stage I alone, one per target and surrogate, for each way of training stage II."""
    values: dict[str, list[float]] = {}
    for one in differences:
        if one.k == 1 and one.target != AVERAGE:
            values.setdefault(one.method, []).append(one.estimate.value)
    label = "points gained over stage I alone, top-1"
    return {"png": boxes(values, y_label=label), "svg": boxes(values, y_label=label, form="svg")}
