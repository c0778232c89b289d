"""`evaluate.py verify`: same or different person, on people no recogniser trained on, or on pairs that are given."""

import dataclasses
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from advcloak_jax import settings
from advcloak_jax.config import VerifyConfig
from advcloak_jax.data import pair_sources, splits
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import diagnosis, figures, roc, verification, verification_table
from advcloak_jax.evaluation.targets import Target
from advcloak_jax.evaluation.verification import Pairs
from advcloak_jax.files import replacing, write_json, write_text
from advcloak_jax.jobs import inputs
from advcloak_jax.jobs.imported import is_imported
from advcloak_jax.jobs.targets import EMBEDDED_AT_A_TIME, LoadedTarget, embed, load_target, require_unseen
from advcloak_jax.progress import Progress
from advcloak_jax.training import distributed, runs

_log = logging.getLogger("advcloak_jax")


@dataclasses.dataclass(frozen=True)
class Trial:
    """What every recogniser is tried on: images [n, H, W, 3] uint8, pairs of them, the pairs' folds [m] or None.

    identity: [n] int and `persons`, the names of all; None and empty where nobody knows who the images show.
    """

    images: np.ndarray
    pairs: Pairs
    fold: np.ndarray | None
    identity: np.ndarray | None
    persons: tuple[str, ...]


def run_verify(config: VerifyConfig) -> None:
    """Measure, print, and write verification.json, verification.csv, roc.png and a histogram for each recogniser."""
    targets = [load_target(spec) for spec in config.targets]
    names = [one.target.name for one in targets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two of --targets are called {name}; give one of them another name.")
    sizes = {one.image_size for one in targets} - {None}
    if len(sizes) > 1:
        raise UserError("--targets take different image sizes; verify them apart.")
    image_size = next(iter(sizes), config.image_size) or config.image_size
    trial = _given(config, image_size) if config.pairs else _drawn(config, targets[0], image_size)
    for one in targets:
        require_unseen(one, list(trial.persons))
    mirror = config.mirror == "yes" or (config.mirror == "auto" and bool(config.pairs))
    print(_describe(trial, mirror))
    results: dict[str, dict[str, Any]] = {}
    with Progress("embedding", len(targets) * len(trial.images) * (1 + mirror), "faces") as progress:
        for one in targets:
            results[one.target.name] = _measure(one.target, trial, mirror, progress)
    for one in targets:
        _warn(one, results[one.target.name], trial)
    if distributed.writes():
        _write(config, results, trial, mirror)


def _drawn(config: VerifyConfig, first: LoadedTarget, image_size: int) -> Trial:
    """Pairs drawn from --data, or from the people of the first run whom no recogniser trained on."""
    if config.data:
        faces = inputs.load_faces(config.data, image_size, config.on_bad_image, config.cache)
        chosen = np.arange(len(faces))
    elif first.folder is None or is_imported(first.folder):
        raise UserError(f"--data or --pairs is needed: {first.target.name}, the first of --targets, brings no faces.")
    else:
        run = runs.read_run(first.folder)
        faces = inputs.load_faces(run.config.data, run.config.image_size, run.config.on_bad_image, config.cache)
        split = splits.read(run.folder / "split.json", faces)
        trained = np.concatenate([split.surrogate, split.target])
        chosen = np.flatnonzero(~np.isin(faces.identity, trained))
    identity = faces.identity[chosen]
    pairs = verification.pairs(identity, config.same, config.different, config.seed)
    persons = tuple(faces.names[i] for i in np.unique(identity))
    return Trial(faces.images[chosen], pairs, None, identity, persons)


def _given(config: VerifyConfig, image_size: int) -> Trial:
    """The pairs of --pairs. Who they show is known where the list's folders tell it."""
    root = Path(config.pairs_root).expanduser() if config.pairs_root else None
    listed = pair_sources.open_pairs(Path(config.pairs).expanduser(), root)
    with Progress(listed.label, len(listed.where), "images") as bar:
        done = 0

        def report(label: str, count: int, total: int) -> None:
            nonlocal done
            bar.update(count - done)
            done = count

        found = pair_sources.load(listed, image_size=image_size, on_bad_image=config.on_bad_image, progress=report)
    if not found.names:
        _log.warning(
            "%s does not name its persons: whether a recogniser was trained on them is not checked", config.pairs
        )
    return Trial(found.images, Pairs(found.first, found.second, found.same), found.fold, found.person, found.names)


def _measure(target: Target, trial: Trial, mirror: bool, progress: Progress) -> dict[str, Any]:
    """Embed all images and measure; the speed is of embedding alone, without the first block, which may compile."""
    embeddings, seconds, count = _timed(target, trial.images, progress)
    if mirror:
        began = time.monotonic()
        mirrored = embed(target, trial.images[:, :, ::-1], progress)
        seconds, count = seconds + time.monotonic() - began, count + len(mirrored)
        embeddings = verification.mirrored_sum(embeddings, mirrored)
    scores = verification.cosine(embeddings, trial.pairs)
    curve = roc.thinned(roc.curve(scores, trial.pairs.same))
    return {
        **verification.measures(scores, trial.pairs.same, trial.fold),
        "rank1": _rank1(embeddings, trial.identity),
        "images_per_second": count / seconds if count else None,
        "roc": {"far": curve.far.tolist(), "tar": curve.tar.tolist()},
    }


def _timed(target: Target, images: np.ndarray, progress: Progress) -> tuple[np.ndarray, float, int]:
    """Embeddings, and the seconds that all images but the first block took, and how many they were."""
    first = embed(target, images[:EMBEDDED_AT_A_TIME], progress)
    rest = images[EMBEDDED_AT_A_TIME:]
    if len(rest) == 0:
        return first, 0.0, 0
    began = time.monotonic()
    others = embed(target, rest, progress)
    return np.concatenate([first, others]), time.monotonic() - began, len(rest)


def _rank1(embeddings: np.ndarray, identity: np.ndarray | None) -> float | None:
    """Rank-1 identification where it is known who is who and somebody has two images."""
    if identity is None or len(np.unique(identity)) == len(identity):
        return None
    return verification.rank1(embeddings, identity)


def _warn(loaded: LoadedTarget, measured: dict[str, Any], trial: Trial) -> None:
    """Warn of a recogniser that tells nobody apart, with the cause where one is found."""
    target, auc, pairs = loaded.target, measured["auc"], len(trial.pairs.same)
    if not diagnosis.suspicious(auc, pairs):
        return
    if loaded.folder is not None and not is_imported(loaded.folder):
        _log.warning(diagnosis.explain_trained(target.name, auc, pairs))
        return
    print(f"{target.name}: a low AUC, trying other scales, channel orders and crops ...", file=sys.stderr)
    _log.warning(diagnosis.explain(target.name, auc, pairs, diagnosis.diagnose(target, trial.images, trial.pairs)))


def _describe(trial: Trial, mirror: bool) -> str:
    same = int(trial.pairs.same.sum())
    parts = [
        f"{len(trial.persons)} persons" if trial.persons else "persons unknown",
        f"{len(trial.images)} images",
        f"{same} same and {len(trial.pairs.same) - same} different pairs",
        "no folds" if trial.fold is None else f"{len(np.unique(trial.fold))} folds",
        "with mirror images" if mirror else "without mirror images",
    ]
    return ", ".join(parts)


def _write(config: VerifyConfig, results: dict[str, dict[str, Any]], trial: Trial, mirror: bool) -> None:
    out = Path(config.out)
    print(verification_table.text_table(results))
    write_text(out / "verification.csv", verification_table.to_csv(results))
    curves = [(name, one["roc"]["far"], one["roc"]["tar"]) for name, one in results.items()]
    finest = min(1 / int((~trial.pairs.same).sum()), 0.1)
    _write_picture(out / "roc.png", figures.roc_curves(curves, smallest=finest))
    for name, one in results.items():
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        picture = figures.cosine_histogram(**one["histogram"], title=name, threshold=one["threshold"])
        _write_picture(out / f"histogram-{safe}.png", picture)
    write_json(
        out / "verification.json",
        {
            "code": runs.code_version(),
            "settings": settings.to_dict(config),
            "persons": len(trial.persons) or None,
            "images": len(trial.images),
            "mirror": mirror,
            "recognisers": results,
        },
    )
    print(f"Wrote verification.json, verification.csv, roc.png and histograms in {out}.", file=sys.stderr)


def _write_picture(path: Path, picture: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(picture)
