"""`evaluate.py targets`: what is installed, and whether each of it works."""

import csv
import dataclasses
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from advcloak_jax.config import RecognizerConfig, TargetsConfig
from advcloak_jax.data import synthetic
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.onnx_target import OnnxTarget
from advcloak_jax.evaluation.targets import Target
from advcloak_jax.files import write_json, write_text
from advcloak_jax.jobs import imported
from advcloak_jax.jobs.inputs import load_recognizer
from advcloak_jax.jobs.targets import LoadedTarget, load_target
from advcloak_jax.recognizers.convention import describe
from advcloak_jax.settings import read_json
from advcloak_jax.training.runs import IMPORTED

TRIED = 48
AGREEMENT = 0.999
"""Least cosine between a face's embeddings alone and in a block: below it, faces of a batch influence each other."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One recogniser found. `problem` is empty when it works; images_per_second without compilation."""

    spec: str
    name: str = ""
    kind: str = ""
    architecture: str = ""
    embedding_size: int = 0
    parameters: int | None = None
    reads: str = ""
    origin: str = ""
    images_per_second: float = 0.0
    problem: str = ""


def run_targets(config: TargetsConfig) -> None:
    """Print the table; write targets.json and targets.csv if asked. Raises UserError when one does not work."""
    specs = expand(config.targets)
    faces = rendered(112)
    entries = []
    for number, spec in enumerate(specs, 1):
        print(f"checking {number}/{len(specs)}: {spec}", file=sys.stderr)
        entries.append(check(spec, faces))
    print(text_table(entries))
    if config.out:
        rows = [dataclasses.asdict(entry) for entry in entries]
        write_json(Path(config.out) / "targets.json", rows)
        write_text(Path(config.out) / "targets.csv", _csv(rows))
    broken = [entry for entry in entries if entry.problem]
    if broken:
        raise UserError(f"{len(broken)} of {len(entries)} recognisers cannot be used; the first: {broken[0].problem}")


def expand(specs: Sequence[str]) -> list[str]:
    """Specs with folders that are no runs replaced by the recognisers' runs and ONNX files in them.

    Raises UserError for a folder that is not there or holds none, and when none is named.
    """
    if not specs or "" in specs:
        raise UserError("--targets names nothing; name a run, a folder of runs, or onnx:FILE.")
    found: list[str] = []
    for spec in specs:
        folder = Path(spec)
        if spec.startswith(("onnx:", "python:")) or (folder / "config.json").exists():
            found.append(spec)
            continue
        if not folder.is_dir():
            raise UserError(f"--targets {spec} is no folder; name a run, a folder of runs, or onnx:FILE.")
        inside = [str(path.parent) for path in sorted(folder.rglob("config.json")) if _is_recognizer(path)]
        inside += [f"onnx:{path}" for path in sorted(folder.rglob("*.onnx"))]
        if not inside:
            raise UserError(f"--targets {spec} holds no recogniser's run and no ONNX file; name another folder.")
        found += inside
    return found


def _is_recognizer(path: Path) -> bool:
    try:
        stored = read_json(path)
    except UserError:
        return True  # what is wrong with it stands in the table
    return isinstance(stored, dict) and stored.get("job") in ("recognizer", IMPORTED)


def check(spec: str, faces: np.ndarray) -> Entry:
    """Load one recogniser and let it embed `faces` [B, H, W, 3] uint8; what goes wrong is in the entry's `problem`.

    One that takes faces of another size gets such instead. Whatever a user's own function raises is its problem too.
    """
    try:
        entry, loaded = _describe(spec)
        if loaded.image_size is not None and loaded.image_size != faces.shape[1]:
            faces = rendered(loaded.image_size)
        return _tried(entry, loaded.target, faces)
    except UserError as error:
        return Entry(spec, problem=str(error))
    except Exception as error:
        if not spec.startswith("python:"):
            raise
        return Entry(spec, problem=f"its code raised {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}")


def rendered(size: int) -> np.ndarray:
    """The faces that every recogniser embeds, twice: [48, size, size, 3] uint8."""
    return synthetic.render(range(TRIED // 2), 2, seed=0, image_size=size)


def _describe(spec: str) -> tuple[Entry, LoadedTarget]:
    found = load_target(spec)
    target = found.target
    entry = Entry(spec, target.name, "ONNX file" if spec.startswith("onnx:") else "Python function")
    if isinstance(target, OnnxTarget):
        return dataclasses.replace(entry, reads=target.reads, parameters=target.parameters()), found
    if spec.startswith("python:"):
        return dataclasses.replace(entry, reads="0..255 RGB"), found
    loaded = load_recognizer(spec, "--targets")
    parameters = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(loaded.recognizer.variables["params"]))
    entry = dataclasses.replace(entry, parameters=parameters)
    if loaded.run is None:
        network = imported.read_network(Path(spec))
        reads, origin = describe(network.convention), network.origin
        return dataclasses.replace(
            entry, kind="imported", architecture=network.architecture, reads=reads, origin=origin
        ), found
    config = loaded.run.config
    assert isinstance(config, RecognizerConfig)
    module: Any = loaded.recognizer.module
    return dataclasses.replace(
        entry,
        kind="trained here",
        architecture=config.architecture,
        reads=describe(module.convention._replace(size=(config.image_size, config.image_size))),
        origin=f"{len(loaded.trained_on)} persons of {' '.join(config.data)}",
    ), found


def _tried(entry: Entry, target: Target, faces: np.ndarray) -> Entry:
    """The entry with what embedding shows: the embedding's size, the rate, and whether a face's batch matters."""
    together = target.embed(faces)
    began = time.monotonic()
    again = target.embed(faces)
    rate = len(faces) / max(time.monotonic() - began, 1e-9)
    alone = np.concatenate([target.embed(faces[i : i + 1]) for i in range(2)])
    entry = dataclasses.replace(entry, embedding_size=together.shape[1], images_per_second=rate)
    if not np.isfinite(together).all():
        return dataclasses.replace(entry, problem=f"{entry.name} gives embeddings that are not finite.")
    if not np.array_equal(together, again) and np.abs(together - again).max() > 1e-3:
        return dataclasses.replace(entry, problem=f"{entry.name} gives the same faces other embeddings each time.")
    if (together[:2] * alone).sum(1).min() < AGREEMENT:
        return dataclasses.replace(entry, problem=f"{entry.name} embeds a face otherwise alone than among others.")
    if np.ptp(together, axis=0).max() < 1e-4:
        return dataclasses.replace(entry, problem=f"{entry.name} gives every face the same embedding.")
    return entry


def text_table(entries: Sequence[Entry]) -> str:
    """The entries as aligned text."""
    head = ("name", "kind", "architecture", "d", "parameters", "reads", "images/s", "status", "origin")
    rows = [head]
    for entry in entries:
        parameters = "-" if entry.parameters is None else f"{entry.parameters:,}"
        rate = f"{entry.images_per_second:.0f}" if entry.images_per_second else "-"
        status = "does not work" if entry.problem else "works"
        size = str(entry.embedding_size or "-")
        name = entry.name or entry.spec
        rows.append(
            (name, entry.kind, entry.architecture, size, parameters, entry.reads, rate, status, entry.origin or "-")
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    problems = [f"{entry.spec}: {entry.problem}" for entry in entries if entry.problem]
    return "\n".join([*lines, *problems])


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in dataclasses.fields(Entry)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
