"""`evaluate.py table`: every cloak against every target in the 1:N protocol, as a table and a report."""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax import images, settings
from advcloak_jax.cloaks.averaged import averaged
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.cloaks.noise import noise
from advcloak_jax.config import ImageConfig, PersonConfig, TableConfig
from advcloak_jax.data import splits
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.splits import Split
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import identification, quality, tables, verification
from advcloak_jax.files import replacing, write_json, write_text
from advcloak_jax.jobs import inputs
from advcloak_jax.jobs import table_report as pages
from advcloak_jax.jobs.cloak import build_generator
from advcloak_jax.jobs.imported import is_imported
from advcloak_jax.jobs.targets import embed, load_target, load_targets, require_unseen
from advcloak_jax.progress import Progress
from advcloak_jax.training import distributed, runs
from advcloak_jax.training.runs import Run

UNPROTECTED = "Unprotected"
SUFFIX = {"plain": "", "affine-hull": "-AffineHull", "class-centre": "-ClassCenter", "convex-hull": "-ConvexHull"}


@dataclasses.dataclass(frozen=True)
class Worn:
    """One method's protected test images [P, T, H, W, 3] uint8, its masks [P, H, W, 3] and the seconds they took."""

    protected: np.ndarray
    masks: np.ndarray
    seconds: float


def run_table(config: TableConfig) -> None:
    """Measure, print the table, and write table.json, table.csv, table.txt, faces.png and the report."""
    began = time.monotonic()
    cloak_runs = _read_cloak_runs(config)
    first = cloak_runs[0].config
    faces = inputs.load_faces(first.data, first.image_size, first.on_bad_image, config.cache)
    split = splits.read(cloak_runs[0].folder / "split.json", faces)
    protected_names = [faces.names[i] for i in split.protected]
    targets = load_targets(config.targets, first.image_size)
    for target in targets:
        require_unseen(target, protected_names)
    distractors = _distractors(config, faces, split)

    inference, test = faces.images[split.inference], faces.images[split.test]
    worn = {cloak.name: _wear(cloak, inference, test, config) for cloak in (noise(), *_cloaks(cloak_runs))}
    flat = (-1, *test.shape[2:])
    surrogates = [load_target(name, "--surrogate") for name in dict.fromkeys(_surrogates(cloak_runs))]
    for one in surrogates:
        require_unseen(one, protected_names)
    ranks: dict[str, dict[str, np.ndarray]] = {name: {} for name in (UNPROTECTED, *worn)}
    summaries: list[tuple[str, str, dict[str, Any]]] = []
    identity = np.repeat(np.arange(len(split.protected)), split.inference.shape[1] + split.test.shape[1])
    own = np.concatenate([inference, test], axis=1)
    total = len(targets) * (own[:, :, 0, 0, 0].size + len(distractors) + len(worn) * test[:, :, 0, 0, 0].size)
    with Progress("embedding", total + len(surrogates) * own[:, :, 0, 0, 0].size, "faces") as progress:
        for one in surrogates:
            clean = embed(one.target, own.reshape(flat), progress)
            summaries.append((one.target.name, "surrogate", verification.summary(clean, identity, seed=config.seed)))
        for one in targets:
            clean = embed(one.target, own.reshape(flat), progress)
            summaries.append((one.target.name, "black box", verification.summary(clean, identity, seed=config.seed)))
            mates = clean.reshape(*own.shape[:2], -1)[:, inference.shape[1] :]
            crowd = embed(one.target, distractors, progress)
            ranks[UNPROTECTED][one.target.name] = identification.ranks(mates, mates, crowd)
            for name, wearing in worn.items():
                probes = embed(one.target, wearing.protected.reshape(flat), progress).reshape(mates.shape)
                ranks[name][one.target.name] = identification.ranks(probes, mates, crowd)

    rows = [tables.protection_row(UNPROTECTED, ranks[UNPROTECTED], seed=config.seed)]
    for name, wearing in worn.items():
        before, after = test.reshape(flat), wearing.protected.reshape(flat)
        ssim, psnr = float(quality.ssim(before, after).mean()), float(quality.psnr(before, after).mean())
        rows.append(tables.protection_row(name, ranks[name], seed=config.seed, ssim=ssim, psnr=psnr))
    differences = _differences(ranks, config.seed)
    facts = _facts(split, test, distractors, config, first.image_size)
    result = pages.Result(
        config=config,
        cloak_runs=cloak_runs,
        target_folders=[one.folder for one in (*surrogates, *targets) if one.folder and not is_imported(one.folder)],
        rows=rows,
        differences=differences,
        summaries=summaries,
        facts=facts,
        seconds_per_person={name: one.seconds / len(split.protected) for name, one in worn.items()},
    )
    if distributed.writes():
        _write(result, worn, test, time.monotonic() - began)


def _read_cloak_runs(config: TableConfig) -> list[Run]:
    """The runs of --cloaks, which must share their data and their split."""
    found = [runs.read_run(Path(folder)) for folder in config.cloaks]
    for run in found:
        if not isinstance(run.config, ImageConfig):
            raise UserError(f"--cloaks {run.folder} is a run of `train.py {run.job}`; name runs of image or person.")
        if settings.read_json(run.folder / "split.json") != settings.read_json(found[0].folder / "split.json"):
            raise UserError(f"--cloaks {run.folder} has another split than {found[0].folder}; compare them apart.")
    return found


def _surrogates(cloak_runs: list[Run]) -> list[str]:
    return [run.config.surrogate for run in cloak_runs if isinstance(run.config, ImageConfig)]


def _cloaks(cloak_runs: list[Run]) -> list[Cloak]:
    """AdvFaces+ for a run of stage I, AdvCloak-... for one of stage II; equal names are told apart by their folders."""
    found: list[Cloak] = []
    for run in cloak_runs:
        config = run.config
        assert isinstance(config, ImageConfig)
        name = f"AdvCloak{SUFFIX[config.subspace]}" if isinstance(config, PersonConfig) else "AdvFaces+"
        if name in [cloak.name for cloak in found]:
            name = f"{name} ({run.folder.name})"
        found.append(averaged(name, build_generator(config, axis_name=None), inputs.load_gan(run)["generator"]))
    return found


def _distractors(config: TableConfig, faces: FaceSet, split: Split) -> np.ndarray:
    """Faces [M, H, W, 3] of everybody else: the split's and those of --distractors."""
    crowd = faces.images[split.distractors]
    if config.distractors:
        more = inputs.load_faces(config.distractors, faces.image_size, config.on_bad_image, config.cache)
        crowd = np.concatenate([crowd, more.images])
    if len(crowd) == 0:
        raise UserError("no face is left to distract; name some with --distractors, or lower the parts of --split.")
    if config.max_distractors and len(crowd) > config.max_distractors:
        kept = np.random.default_rng(config.seed).choice(len(crowd), config.max_distractors, replace=False)
        crowd = crowd[np.sort(kept)]
    return crowd


def _wear(cloak: Cloak, inference: np.ndarray, test: np.ndarray, config: TableConfig) -> Worn:
    """Make the masks from the inference images, bring them to the norm, and put them on the test images."""
    began = time.monotonic()
    made = cloak.make_masks(images.to_unit(jnp.asarray(inference)), jax.random.key(config.seed))
    masks = np.asarray(images.rescale(made, images.mask_norm_at(test.shape[2], config.norm)))
    seconds = time.monotonic() - began
    return Worn(images.protect(test, masks[:, None]), masks, seconds)


def _differences(ranks: dict[str, dict[str, np.ndarray]], seed: int) -> list[tables.Difference]:
    """Every method after the random mask against the random mask, and every AdvCloak against every AdvFaces+.

    On the targets' average and, where there are several, on each.
    """
    learnt = [name for name in ranks if name not in (UNPROTECTED, "Random mask")]
    pairs = [(name, "Random mask") for name in learnt]
    pairs += [(a, b) for a in learnt if a.startswith("AdvCloak") for b in learnt if b.startswith("AdvFaces")]
    single = list(ranks[UNPROTECTED])
    return [
        tables.difference(a, ranks[a], b, ranks[b], k=k, target=target, seed=seed)
        for a, b in pairs
        for k in (1, 5)
        for target in (tables.AVERAGE, *(single if len(single) > 1 else ()))
    ]


def _facts(
    split: Split, test: np.ndarray, distractors: np.ndarray, config: TableConfig, image_size: int
) -> list[tuple[str, str]]:
    persons, per_person = test.shape[:2]
    norm = images.mask_norm_at(image_size, config.norm)
    return [
        ("Protected persons", f"{persons}"),
        ("Images a mask is made from", f"{split.inference.shape[1]}"),
        ("Trials", f"{persons * per_person * (per_person - 1):,}"),
        ("Distractors", f"{len(distractors):,}"),
        ("Mask norm", f"{norm:.0f} grey levels at {image_size}x{image_size}"),
        ("Device", _device()),
    ]


def _device() -> str:
    """What computed: accelerators with their number, or the processor's cores."""
    first = jax.devices()[0]
    return f"cpu, {os.cpu_count()} cores" if first.platform == "cpu" else f"{jax.device_count()} x {first.device_kind}"


def _write(result: pages.Result, worn: dict[str, Worn], test: np.ndarray, seconds: float) -> None:
    out = Path(result.config.out)
    text = tables.text_table(result.rows)
    grid = pages.picture_grid(worn, test, result.config.pictures)
    write_text(out / "table.csv", tables.to_csv(result.rows))
    write_text(out / "table.txt", text + "\n")
    with replacing(out / "faces.png") as temporary:
        temporary.write_bytes(grid)
    report = Path(result.config.report) if result.config.report else out / "report.html"
    write_text(report, pages.build(result, grid, seconds))
    write_json(out / "table.json", pages.to_json(result, seconds))
    print(text)
    for difference in result.differences:
        value, low, high = difference.estimate
        print(
            f"{difference.method} - {difference.baseline}, top-{difference.k}, {difference.target}: "
            f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
        )
    print(f"Wrote {report} and table.json, table.csv, table.txt, faces.png in {out}.", file=sys.stderr)
