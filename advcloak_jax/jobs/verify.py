"""`evaluate.py verify`: same or different person, on people no recogniser trained on."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from advcloak_jax import settings
from advcloak_jax.config import VerifyConfig
from advcloak_jax.data import splits
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import figures, verification
from advcloak_jax.files import replacing, write_json, write_text
from advcloak_jax.jobs import inputs
from advcloak_jax.jobs.targets import embed, load_target, require_unseen
from advcloak_jax.progress import Progress
from advcloak_jax.training import runs


def run_verify(config: VerifyConfig) -> None:
    """Measure, print, and write verification.json, verification.csv and a histogram for each recogniser."""
    targets = [load_target(spec) for spec in config.targets]
    sizes = {one.image_size for one in targets} - {None}
    if len(sizes) > 1:
        raise UserError("--targets take different image sizes; verify them apart.")
    faces, chosen = _faces(config, next(iter(sizes), config.image_size) or config.image_size)
    people = [faces.names[i] for i in np.unique(faces.identity[chosen])]
    for one in targets:
        require_unseen(one, people)
    results: dict[str, dict[str, Any]] = {}
    with Progress("embedding", len(targets) * len(chosen), "faces") as progress:
        for one in targets:
            embeddings = embed(one.target, faces.images[chosen], progress)
            results[one.target.name] = verification.summary(
                embeddings, faces.identity[chosen], same=config.same, different=config.different, seed=config.seed
            )
    _write(config, results, len(people), len(chosen))


def _faces(config: VerifyConfig, image_size: int) -> tuple[FaceSet, np.ndarray]:
    """Faces and the indices of those to compare."""
    if config.data:
        faces = inputs.load_faces(config.data, image_size, config.on_bad_image, config.cache)
        return faces, np.arange(len(faces))
    if config.targets[0].startswith("onnx:"):
        raise UserError("--data is needed when the first of --targets is an ONNX file: it brings no faces of its own.")
    run = runs.read_run(Path(config.targets[0]))
    faces = inputs.load_faces(run.config.data, run.config.image_size, run.config.on_bad_image, config.cache)
    split = splits.read(run.folder / "split.json", faces)
    trained = np.concatenate([split.surrogate, split.target])
    return faces, np.flatnonzero(~np.isin(faces.identity, trained))


def _write(config: VerifyConfig, results: dict[str, dict[str, Any]], persons: int, images: int) -> None:
    out = Path(config.out)
    columns = ("auc", "accuracy", "threshold", "rank1")
    lines = [",".join(["recogniser", *columns, "tar_at_far_1e-3"])]
    print(f"{persons} persons, {images} images")
    for name, summary in results.items():
        values = [f"{summary[column]:.4f}" for column in columns]
        tar = summary["tar"].get("0.001")
        lines.append(",".join([f'"{name}"', *values, "" if tar is None else f"{tar:.4f}"]))
        shown = ", ".join(f"{column} {value}" for column, value in zip(columns, values, strict=True))
        print(f"{name}: {shown}, TAR at FAR 1e-3 {'-' if tar is None else f'{tar:.4f}'}")
        picture = figures.cosine_histogram(**summary["histogram"], title=name, threshold=summary["threshold"])
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        with replacing(out / f"{safe}.png") as temporary:
            temporary.write_bytes(picture)
    write_text(out / "verification.csv", "\n".join(lines) + "\n")
    write_json(
        out / "verification.json",
        {
            "code": runs.code_version(),
            "settings": settings.to_dict(config),
            "persons": persons,
            "images": images,
            "recognisers": results,
        },
    )
    print(f"Wrote verification.json, verification.csv and histograms in {out}.", file=sys.stderr)
