"""`protect.py`: a person's own photos in, protected photos out."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from advcloak_jax import images, settings
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.config import ProtectConfig
from advcloak_jax.config.protecting import CROPS
from advcloak_jax.data.folder import printable
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import figures
from advcloak_jax.evaluation.store import Store
from advcloak_jax.evaluation.tables import csv_text
from advcloak_jax.files import new_folder, require_folder, write_json, write_text
from advcloak_jax.jobs import inputs, programs, protect_cloak, protect_faces, protect_trial
from advcloak_jax.jobs.protect_faces import Face, Found
from advcloak_jax.jobs.protect_trial import Outcome
from advcloak_jax.jobs.targets import load_targets
from advcloak_jax.photos import alignment, photo_file
from advcloak_jax.photos.detector import Detector
from advcloak_jax.photos.photo_file import Photo
from advcloak_jax.progress import Progress
from advcloak_jax.training import runs

MASKS_AT_A_TIME = 8
PICTURED = 5
USUAL_NORM = 1200.0
"""Norm of a mask in grey levels at 112x112, as published."""
PHOTOS = "photos"
"""Sub-folder of what may be shown; the files beside it show or tell of the clean photos."""


def run(config: ProtectConfig) -> Path:
    """Protect the photos, try them on the targets, and return the folder.

    Raises UserError, leaving no folder, when the settings cannot be met.
    """
    config.require_complete()
    root, out = Path(config.photos).expanduser(), Path(config.out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; name another folder.")
    if root.is_dir() and out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{out} is inside {root}, whose photos it would add to; name a folder elsewhere.")
    require_folder(out, f"{out}")
    programs.keep(config.cache)
    paths = photo_file.find(root)
    _require_own_names(root, paths, config)
    detector = None if config.detector == CROPS else Detector(Path(config.detector).expanduser())
    chosen = protect_cloak.load(config)
    size = chosen.image_size
    known = protect_faces.known_face(Path(config.who).expanduser(), detector, size) if config.who else None
    if known and not chosen.recognizer:
        raise UserError("--who needs a recogniser that compares faces; name one by --recognizer.")
    targets = load_targets(config.targets, size)
    crowd = inputs.load_faces(config.distractors, size, "skip", config.cache).images[:] if config.distractors else None
    store = Store(Path(config.cache) / "measured" if config.cache else None)

    found, left_out = protect_faces.find(root, paths, detector, chosen.recognizer, size, known)
    masks = make_masks(chosen.cloak, found, config, size)
    with new_folder(out) as temporary:
        worn, again = _write_photos(root, temporary, found, masks, config, detector, size)
        clean = np.stack([one.face.crop for one in found])
        outcomes = protect_trial.try_out(targets, clean, worn, crowd, store) if targets else []
        if chosen.cloak.kind != "image":
            np.save(temporary / "mask.npy", masks[0])
        norms = [float(np.linalg.norm(mask)) * 255 for mask in (masks if chosen.cloak.kind == "image" else masks[:1])]
        _write_report(temporary, config, chosen.cloak, found, left_out, again, outcomes, norms, size)
        shown = slice(min(PICTURED, len(found)))
        grid = figures.face_grid(clean[shown], masks[shown], worn[shown])
        (temporary / "comparison.png").write_bytes(grid)
    if outcomes:
        print(protect_trial.text_table(outcomes))
    print(
        f"{out}: {len(found)} protected photos"
        + (f", {len(left_out)} left out (protection.json says why)" if left_out else "")
        + ". A photo that is public without its cloak stays findable, and a recogniser that was not tried may still "
        "find the others.",
        file=sys.stderr,
    )
    return out


def make_masks(cloak: Cloak, found: Sequence[Found], config: ProtectConfig, size: int) -> np.ndarray:
    """The masks [photos, S, S, 3] float32, on the scale [0, 1], at the norm asked for: one for all, or each photo's.

    One that was made before is as it was, unless a norm is asked for.
    """
    crops = np.stack([one.face.crop for one in found])
    key = jax.random.key(config.seed)
    if cloak.kind == "image":
        made = _image_masks(cloak, crops, key)
    else:
        # The less a photo had to be magnified, the larger the face in it.
        largest = np.argsort([alignment.magnification(one.face.matrix) for one in found], kind="stable")
        chosen = crops[np.sort(largest[: config.mask_photos])]
        mask = np.asarray(cloak.make_masks(images.to_unit(jax.numpy.asarray(chosen[None])), key), np.float32)
        made = mask.reshape(1, size, size, 3)
    if not np.isfinite(made).all():
        raise UserError(f"{cloak.name} made a mask that is not finite; name another cloak.")
    if not config.mask:
        made = made * fading(size, config.fade)[..., None]
    if config.norm or not config.mask:
        made = np.asarray(images.rescale(made, images.mask_norm_at(size, config.norm or USUAL_NORM)))
    return np.broadcast_to(made, crops.shape)


def fading(size: int, margin: int) -> np.ndarray:
    """Weights [S, S] in (0, 1] that rise over the outer `margin` pixels, so that the mask's edge is not seen."""
    edge = np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5)
    along = np.sin(np.pi / 2 * np.minimum(edge / margin, 1)) ** 2 if margin else np.ones(size)
    return np.outer(along, along).astype(np.float32)


def _image_masks(cloak: Cloak, crops: np.ndarray, key: jax.Array) -> np.ndarray:
    """Each photo's own mask, a few at a time, so that memory does not grow with their number."""
    made = []
    for number, start in enumerate(range(0, len(crops), MASKS_AT_A_TIME)):
        block = crops[start : start + MASKS_AT_A_TIME]
        full = np.concatenate([block, np.repeat(block[-1:], MASKS_AT_A_TIME - len(block), axis=0)])
        masks = cloak.make_masks(images.to_unit(jax.numpy.asarray(full[None])), jax.random.fold_in(key, number))
        made.append(np.asarray(masks, np.float32)[0, : len(block)])
    return np.concatenate(made)


def wear(photo: Photo, face: Face, mask: np.ndarray) -> Photo:
    """The photo with the mask [S, S, 3] where the face is."""
    pixels = np.array(photo.picture)
    window, (left, top) = alignment.onto_photo(mask, face.matrix, *photo.picture.size)
    part = pixels[top : top + window.shape[0], left : left + window.shape[1]]
    part[:] = images.protect(part, window)
    return dataclasses.replace(photo, picture=Image.fromarray(pixels))


def _require_own_names(root: Path, paths: Sequence[Path], config: ProtectConfig) -> None:
    """Raise UserError when two photos would become one file."""
    taken: dict[Path, Path] = {}
    for path in paths:
        name = photo_file.name_of(path.relative_to(root), config.file_format)
        if name in taken:
            raise UserError(f"{taken[name]} and {path} would both become {name}; rename one, or drop --file-format.")
        taken[name] = path


def _write_photos(
    root: Path,
    out: Path,
    found: Sequence[Found],
    masks: np.ndarray,
    config: ProtectConfig,
    detector: Detector | None,
    size: int,
) -> tuple[np.ndarray, list[bool]]:
    """Write the protected photos; returns the crops [photos, S, S, 3] of the faces as they are found in the files, or
    in what a web site makes of them.

    Where the detector finds the face no more, which is told by the flags, the crop is taken where it was.
    """
    crops, again = [], []
    with Progress("protecting", len(found), "photos") as progress:
        for one, mask in zip(found, masks, strict=True):
            path = out / PHOTOS / photo_file.name_of(one.path, config.file_format)
            photo_file.write(path, wear(photo_file.read(root / one.path), one.face, mask))
            written = photo_file.read(path).picture
            shown = photo_file.passed_on(written, config.upload_side, config.upload_quality)
            scale = shown.width / written.width
            face = protect_faces.again(shown, one.face, detector, size, scale)
            again.append(face is not None)
            there = one.face.matrix / [scale, scale, 1]
            crops.append(alignment.crop(shown, there, size) if face is None else face.crop)
            progress.update(1)
    return np.stack(crops), again


def _write_report(
    out: Path,
    config: ProtectConfig,
    cloak: Cloak,
    found: Sequence[Found],
    left_out: Sequence[tuple[Path, str]],
    again: Sequence[bool],
    outcomes: Sequence[Outcome],
    norms: Sequence[float],
    size: int,
) -> None:
    """norms: of the masks, in grey levels on the crop."""
    head = ["photo", "faces", "alike", "face_pixels", "found_again"]
    head += [f"{one.name}: {when}" for one in outcomes for when in ("before", "after")]
    rows = []
    for number, (one, seen) in enumerate(zip(found, again, strict=True)):
        pixels = round(size / alignment.magnification(one.face.matrix))
        cosines = [values[number] for outcome in outcomes for values in (outcome.before, outcome.after)]
        name = printable(str(photo_file.name_of(one.path, config.file_format)))
        rows.append([name, one.faces, one.alike, pixels, seen, *cosines])
    write_text(out / "protection.csv", csv_text(head, rows))
    write_json(
        out / "protection.json",
        {
            "code": runs.code_version(),
            "settings": settings.to_dict(config),
            "cloak": cloak.name,
            "mask_norms": {"least": min(norms), "most": max(norms)},
            "photos": [dict(zip(head, row, strict=True)) for row in rows],
            "left_out": {printable(str(path)): why for path, why in left_out},
            "recognisers": [dataclasses.asdict(one) for one in outcomes],
        },
    )
