"""What is told of a person's protected photos: protection.csv, protection.json and comparison.png."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from advcloak_jax import settings
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.config import ProtectConfig
from advcloak_jax.data.folder import printable
from advcloak_jax.evaluation import figures
from advcloak_jax.evaluation.tables import csv_text
from advcloak_jax.files import replacing, write_json, write_text
from advcloak_jax.jobs.protect_faces import Found, Shown
from advcloak_jax.jobs.protect_trial import Outcome
from advcloak_jax.photos import alignment, photo_file
from advcloak_jax.training import runs

PICTURED = 5


def write(
    out: Path,
    config: ProtectConfig,
    cloak: Cloak,
    found: Sequence[Found],
    left_out: Sequence[tuple[Path, str]],
    shown: Sequence[Shown],
    masks: np.ndarray,
    outcomes: Sequence[Outcome],
) -> None:
    """Write the three files; outcomes are of the photos that are not doubtful, masks [photos, S, S, 3] of all."""
    size = masks.shape[1]
    norms = [float(np.linalg.norm(mask)) * 255 for mask in (masks if cloak.kind == "image" else masks[:1])]
    head = ["photo", "faces", "alike", "doubtful", "face_pixels", "found_again"]
    tried = [f"{one.name}: {when}" for one in outcomes for when in ("before", "after")]
    cosines = iter(zip(*(values for one in outcomes for values in (one.before, one.after)), strict=True))
    rows = []
    for one, face in zip(found, shown, strict=True):
        pixels = round(size / alignment.magnification(one.face.matrix))
        name = printable(str(photo_file.name_of(one.path, config.file_format)))
        of_trial = [None] * len(tried) if one.doubtful or not tried else list(next(cosines))
        rows.append([name, one.faces, one.alike, one.doubtful, pixels, face.again, *of_trial])
    write_text(out / "protection.csv", csv_text([*head, *tried], rows))
    write_json(
        out / "protection.json",
        {
            "code": runs.code_version(),
            "settings": settings.to_dict(config),
            "cloak": cloak.name,
            "mask_norms": {"least": min(norms), "most": max(norms)},
            "photos": [dict(zip([*head, *tried], row, strict=True)) for row in rows],
            "left_out": {printable(str(path)): why for path, why in left_out},
            "recognisers": [dataclasses.asdict(one) for one in outcomes],
        },
    )
    few = slice(PICTURED)
    clean, worn = (np.stack(crops[few]) for crops in ([one.clean for one in shown], [one.worn for one in shown]))
    with replacing(out / "comparison.png") as temporary:
        temporary.write_bytes(figures.face_grid(clean, masks[few], worn))
