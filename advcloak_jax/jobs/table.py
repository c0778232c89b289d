"""`evaluate.py table`: every cloak against every target in the 1:N protocol, as a table and a report."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from advcloak_jax import images
from advcloak_jax.config import ProtectionConfig, TableConfig
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import cost, layouts, tables
from advcloak_jax.files import replacing, write_json, write_text
from advcloak_jax.jobs import entries as rows_of
from advcloak_jax.jobs import table_report as pages
from advcloak_jax.jobs.entries import Entry
from advcloak_jax.jobs.imported import is_imported
from advcloak_jax.jobs.measure import Gallery, Measured, device_name, measure, wear
from advcloak_jax.jobs.targets import LoadedTarget, load_targets
from advcloak_jax.jobs.trials import Trials, load_trials, open_store, read_cloak_runs
from advcloak_jax.progress import Progress
from advcloak_jax.training import distributed

UNPROTECTED = "Unprotected"


def run_table(config: TableConfig) -> None:
    """Measure, print the table, and write table.json, the CSV, text and Markdown tables, faces.png and the report."""
    began = time.monotonic()
    cloak_runs = read_cloak_runs(config)
    trials = load_trials(config, cloak_runs)
    targets = load_targets(config.targets, trials.image_size)
    entries = [rows_of.random_mask(), *rows_of.build(config, cloak_runs)]
    require_baselines(config, entries)
    store = open_store(config.cache)
    gallery = Gallery(trials, targets, entries, store, config.seed)

    measured: list[Measured] = []
    costs: list[cost.Cost] = []
    total = sum(len(gallery.black_boxes(entry)) for entry in entries) * trials.test[:, :, 0, 0, 0].size
    with Progress("protecting", total, "faces") as progress:
        for entry in entries:
            worn = wear(entry, trials, store, norm=config.norm, seed=config.seed, timed=config.timed)
            measured.append(measure(gallery, entry, worn, trials.test, progress))
            source = entry.source.label if entry.source else ""
            costs.append(cost.cost(source, entry.cloak, worn.making, worn.applying))
    grid = pages.picture_grid(worn, trials.test, config.pictures)

    common = gallery.common(entries)
    everywhere = all(len(gallery.black_boxes(entry)) == len(targets) for entry in entries)
    options: dict = {"seed": config.seed, "samples": config.bootstrap, "common": [] if everywhere else common}
    clean = gallery.unprotected()
    rows = [tables.protection_row(UNPROTECTED, clean, **options)]
    rows += [row_of(entry, one, options) for entry, one in zip(entries, measured, strict=True)]
    result = pages.Result(
        config=config,
        cloak_runs=cloak_runs,
        recogniser_folders=_trained_recognisers(entries, targets),
        rows=rows,
        differences=_differences(config, entries, measured),
        summaries=gallery.summaries(),
        facts=_facts(trials, config),
        costs=costs,
        account=store.account(),
        not_kept=[one.target.name for one in targets if one.fingerprint is None] if store.folder else [],
    )
    if distributed.writes():
        _write(result, grid, time.monotonic() - began)
        print(f"Cache: {store.summary()}", file=sys.stderr)


def row_of(entry: Entry, measured: Measured, options: Mapping) -> tables.ProtectionRow:
    """The table's row of an entry; options: of `tables.protection_row`."""
    source = entry.source.label if entry.source else ""
    kind = entry.cloak.kind if entry.source else ""
    return tables.protection_row(
        entry.cloak.name,
        measured.ranks,
        ssim=measured.ssim,
        psnr=measured.psnr,
        source=source,
        kind=kind,
        **options,
    )


def require_baselines(config: ProtectionConfig, entries: Sequence[Entry]) -> None:
    """Raise UserError for a --baseline that was asked for and is no row."""
    names = list(dict.fromkeys(entry.cloak.name for entry in entries))
    default = ProtectionConfig().baseline
    for name in config.baseline:
        if name not in names and name not in default:
            raise UserError(f"--baseline {name} is no row of the table; the rows are {', '.join(names)}.")


def _differences(
    config: TableConfig, entries: Sequence[Entry], measured: Sequence[Measured]
) -> list[tables.Difference]:
    """Every row against the random mask, and against the baselines of its source model.

    On the average of the targets that both have and, where there are several, on each.
    """
    rows = list(zip(entries, measured, strict=True))
    random, learnt = rows[0], rows[1:]
    pairs = [(one, random) for one in learnt]
    for name in config.baseline:
        for rival in (row for row in learnt if row[0].cloak.name == name):
            others = [row for row in learnt if row[0].source is rival[0].source and row is not rival]
            compared = {(id(one), id(other)) for one, other in pairs}
            pairs += [(row, rival) for row in others if (id(rival), id(row)) not in compared]
    found = []
    for (entry, its), (base, theirs) in pairs:
        shared = [name for name in its.ranks if name in theirs.ranks]
        if not shared:
            continue
        for k in layouts.SHOWN:
            for target in (tables.AVERAGE, *(shared if len(shared) > 1 else ())):
                found.append(
                    tables.difference(
                        entry.cloak.name,
                        its.ranks,
                        base.cloak.name,
                        theirs.ranks,
                        k=k,
                        target=target,
                        seed=config.seed,
                        samples=config.bootstrap,
                        source=entry.source.label if entry.source else "",
                    )
                )
    return found


def _trained_recognisers(entries: Sequence[Entry], targets: Sequence[LoadedTarget]) -> list[Path]:
    """Folders of the recognisers that were trained here, surrogates first."""
    surrogates = [member for entry in entries if entry.source for member in entry.source.members]
    folders = dict.fromkeys(one.folder for one in (*surrogates, *targets) if one.folder is not None)
    return [folder for folder in folders if not is_imported(folder)]


def _facts(trials: Trials, config: TableConfig) -> list[tuple[str, str]]:
    persons, per_person = trials.test.shape[:2]
    norm = images.mask_norm_at(trials.image_size, config.norm)
    return [
        ("Protected persons", f"{persons}"),
        ("Images a mask is made from", f"{trials.inference.shape[1]}"),
        ("Trials", f"{persons * per_person * (per_person - 1):,}"),
        ("Distractors", f"{len(trials.distractors):,}"),
        ("Mask norm", f"{norm:.0f} grey levels at {trials.image_size}x{trials.image_size}"),
        ("Device", device_name()),
    ]


def _write(result: pages.Result, grid: bytes, seconds: float) -> None:
    out = Path(result.config.out)
    text = layouts.text_table(result.rows)
    timing = cost.text_table(result.costs)
    parts = [
        text,
        *([layouts.difference_table(result.differences)] if result.differences else []),
        *([timing] if result.config.timed else []),
        layouts.interval_table(result.rows),
    ]
    write_text(out / "table.txt", "\n\n".join(parts) + "\n")
    write_text(out / "table.md", layouts.markdown_table(result.rows))
    write_text(out / "table.csv", tables.to_csv(result.rows))
    write_text(out / "differences.csv", tables.differences_csv(result.differences))
    write_text(out / "costs.csv", tables.csv_text(cost.Cost._fields, result.costs))
    with replacing(out / "faces.png") as temporary:
        temporary.write_bytes(grid)
    report = Path(result.config.report) if result.config.report else out / "report.html"
    write_text(report, pages.build(result, grid, seconds))
    write_json(out / "table.json", pages.to_json(result, seconds))
    print("\n\n".join(parts[:-1]))
    for name in result.not_kept:
        print(
            f"{name}: its embeddings were not kept, since nothing tells whether it is the same next time.",
            file=sys.stderr,
        )
    print(f"Wrote {report} and table.json, *.csv, table.txt, table.md, faces.png in {out}.", file=sys.stderr)
