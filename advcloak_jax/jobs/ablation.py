"""`evaluate.py ablation`: protection over the number of photos, over the strength of the masks, and stage by stage."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advcloak_jax import images, settings
from advcloak_jax.config import AblationConfig
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import layouts, tables
from advcloak_jax.evaluation.ablation_figures import Line, Panel, panels
from advcloak_jax.evaluation.store import Store
from advcloak_jax.evaluation.tables import AVERAGE, COMMON, Estimate, ProtectionRow
from advcloak_jax.files import replacing, write_json, write_text
from advcloak_jax.jobs import entries as rows_of
from advcloak_jax.jobs.entries import Entry
from advcloak_jax.jobs.measure import Gallery, Measured, device_name, measure, wear
from advcloak_jax.jobs.stages import stages
from advcloak_jax.jobs.table import UNPROTECTED, row_of
from advcloak_jax.jobs.targets import load_targets
from advcloak_jax.jobs.trials import Trials, load_trials, open_store, read_cloak_runs
from advcloak_jax.progress import Progress
from advcloak_jax.training import distributed, runs


@dataclasses.dataclass(frozen=True)
class Point:
    """One row of protection at one value of what is varied."""

    x: float
    row: ProtectionRow


@dataclasses.dataclass(frozen=True)
class Result:
    """What an ablation found: points, in the table's order, further JSON, and plots by file name."""

    points: Sequence[Point]
    plots: Mapping[str, Mapping[str, bytes]]
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Bench:
    """One set of rows, tried as often as an ablation wants."""

    def __init__(self, config: AblationConfig, entries: Sequence[Entry], trials: Trials, store: Store) -> None:
        """Raises UserError when there is no row, and as `Gallery` does."""
        if not entries:
            raise UserError(
                f"ablation {config.name} has nothing to vary: name --cloaks or --methods of persons' masks."
            )
        self.entries = entries
        self._config, self._trials, self._store = config, trials, store
        targets = load_targets(config.targets, trials.image_size)
        self.gallery = Gallery(trials, targets, entries, store, config.seed)
        common = self.gallery.common(entries)
        everywhere = all(len(self.gallery.black_boxes(entry)) == len(targets) for entry in entries)
        self._options = {"seed": config.seed, "samples": config.bootstrap, "common": [] if everywhere else common}
        if not common:
            raise UserError("no target is a black box for every row, so they cannot be compared; name another one.")

    def unprotected(self) -> ProtectionRow:
        """The row without masks."""
        return tables.protection_row(UNPROTECTED, self.gallery.unprotected(), **self._options)  # type: ignore[arg-type]

    def sweep(self, values: Sequence[float], varied: str) -> list[tuple[float, Entry, Measured]]:
        """Every row at every value: of photos ("n_inference") or of the norm ("norm")."""
        config, trials, found = self._config, self._trials, []
        faces = len(values) * trials.test[:, :, 0, 0, 0].size
        total = faces * sum(len(self.gallery.black_boxes(entry)) for entry in self.entries)
        with Progress(f"ablation {config.name}", total, "faces") as progress:
            for entry in self.entries:
                for value in values:
                    own = trials.with_inference(int(value)) if varied == "n_inference" else trials
                    norm = value if varied == "norm" else config.norm
                    worn = wear(entry, own, self._store, norm=norm, seed=config.seed)
                    label = f"{entry.label} at {varied} {value:g}"
                    found.append((value, entry, measure(self.gallery, entry, worn, trials.test, progress, label)))
        return found

    def row(self, entry: Entry, measured: Measured) -> ProtectionRow:
        """The table's row of what was measured."""
        return row_of(entry, measured, self._options)


def run_ablation(config: AblationConfig) -> None:
    """Measure, print the points, and write NAME.json, NAME.csv and the plots."""
    cloak_runs = read_cloak_runs(config)
    trials = load_trials(config, cloak_runs)
    store = open_store(config.cache)
    if config.name == "n-inference" and config.n_inference[-1] > trials.inference.shape[1]:
        raise UserError(
            f"--n-inference {config.n_inference[-1]} is more than the {trials.inference.shape[1]} photos that each "
            "person's mask is made from; lower it, or deal more with --split.n-inference."
        )
    entries = rows_of.build(config, cloak_runs)
    if config.name == "n-inference":
        entries = [entry for entry in entries if entry.cloak.kind == "person"]
        result = _over_photos(Bench(config, entries, trials, store), config)
    elif config.name == "norm":
        result = _over_norms(Bench(config, [rows_of.random_mask(), *entries], trials, store), config)
    else:
        result = _over_stages(config, entries, trials, store)
    if distributed.writes():
        _write(config, result, trials, store)


def _over_photos(bench: Bench, config: AblationConfig) -> Result:
    found = bench.sweep(config.n_inference, "n_inference")
    points = [Point(value, bench.row(entry, measured)) for value, entry, measured in found]
    parts = [
        Panel("photos a mask is made from", f"top-{k} protection, %", lines_of(points, k), _level(bench, k))
        for k in layouts.SHOWN
    ]
    return Result([Point(0, bench.unprotected()), *points], {"n-inference": _both(parts)})


def _over_norms(bench: Bench, config: AblationConfig) -> Result:
    found = bench.sweep(config.norms, "norm")
    points = [Point(value, bench.row(entry, measured)) for value, entry, measured in found]
    over, ssim = "L2 norm of the mask at 112x112, grey levels", "SSIM with the original"
    lines, similar = lines_of(points, 1), _ssim(points)
    alike = [line._replace(y=[Estimate(x, x, x) for x in own]) for line, own in zip(lines, similar, strict=True)]
    traded = [
        Panel(
            ssim,
            f"top-{k} protection, %",
            [line._replace(x=own) for line, own in zip(lines_of(points, k), similar, strict=True)],
        )
        for k in layouts.SHOWN
    ]
    parts = [Panel(over, "top-1 protection, %", lines, _level(bench, 1)), Panel(over, ssim, alike)]
    return Result([Point(0, bench.unprotected()), *points], {"norm": _both(parts), "ssim": _both(traded)})


def _over_stages(config: AblationConfig, entries: Sequence[Entry], trials: Trials, store: Store) -> Result:
    wanted = [entry for entry in entries if entry.run is not None and entry.cloak.kind == "person"]
    bench = Bench(config, wanted, trials, store)
    measured = [(entry, found) for _, entry, found in bench.sweep((config.norm,), "norm")]
    points = [Point(config.norm, bench.row(entry, found)) for entry, found in measured]
    found = stages(measured, [point.row for point in points], seed=config.seed, samples=config.bootstrap)
    differences = [{**one._asdict(), "estimate": one.estimate._asdict()} for one in found.differences]
    return Result([Point(0, bench.unprotected()), *points], found.plots, {"differences": differences})


def lines_of(points: Sequence[Point], k: int) -> list[Line]:
    """A line per method: its average over the black boxes of all rows."""
    names = dict.fromkeys(_name(point.row) for point in points)
    methods = {_name(point.row): point.row.method for point in points}
    one_source = len({point.row.source for point in points if point.row.source}) == 1
    return [
        Line(
            methods[name] if one_source else name,
            [p.x for p in points if _name(p.row) == name],
            [mean(p.row, k) for p in points if _name(p.row) == name],
        )
        for name in names
    ]


def mean(row: ProtectionRow, k: int) -> Estimate:
    """The average that can be compared between rows; of one target, its own rate."""
    name = next((name for name in (COMMON, AVERAGE) if name in row.rates), next(iter(row.rates)))
    return row.rates[name][k]


def _name(row: ProtectionRow) -> str:
    return f"{row.method} ({row.source})" if row.source else row.method


def _ssim(points: Sequence[Point]) -> list[list[float]]:
    """Of every line of `lines_of`, in the same order."""
    names = dict.fromkeys(_name(point.row) for point in points)
    return [[point.row.ssim or 0.0 for point in points if _name(point.row) == name] for name in names]


def _level(bench: Bench, k: int) -> tuple[str, float]:
    return UNPROTECTED, mean(bench.unprotected(), k).value


def _both(parts: Sequence[Panel]) -> dict[str, bytes]:
    return {"png": panels(parts), "svg": panels(parts, form="svg")}


def _write(config: AblationConfig, result: Result, trials: Trials, store: Store) -> None:
    out = Path(config.out)
    rows = [
        {"x": point.x, **row}
        for point, row in zip(result.points, tables.to_json([p.row for p in result.points]), strict=True)
    ]
    facts = {
        "persons": len(trials.persons),
        "distractors": len(trials.distractors),
        "mask norm": images.mask_norm_at(trials.image_size, config.norm),
        "image size": trials.image_size,
        "device": device_name(),
    }
    write_json(
        out / f"{config.name}.json",
        {
            "ablation": config.name,
            "code": runs.code_version(),
            "settings": settings.to_dict(config),
            "facts": facts,
            "cache": store.account(),
            "points": rows,
            **result.more,
        },
    )
    head = ["x", "source", "method", "target", "k", "protection", "low", "high", "ssim", "psnr"]
    cells = [
        [p.x, p.row.source, p.row.method, target, k, *estimate, p.row.ssim, p.row.psnr]
        for p in result.points
        for target, per_k in p.row.rates.items()
        for k, estimate in per_k.items()
    ]
    write_text(out / f"{config.name}.csv", tables.csv_text(head, cells))
    for name, forms in result.plots.items():
        for form, picture in forms.items():
            with replacing(out / f"{name}.{form}") as temporary:
                temporary.write_bytes(picture)
    for point in result.points:
        rates = ", ".join(f"top-{k} {layouts.interval(mean(point.row, k))}" for k in layouts.SHOWN)
        print(f"{_name(point.row)}, {config.name} {point.x:g}: {rates}")
    plots = ", ".join(f"{name}.png, {name}.svg" for name in result.plots)
    print(f"Wrote {config.name}.json, {config.name}.csv, {plots} in {out}.", file=sys.stderr)
    print(f"Cache: {store.summary()}", file=sys.stderr)
