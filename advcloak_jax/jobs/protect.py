"""`protect.py`: a person's own photos in, protected photos out."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from advcloak_jax.config import ProtectConfig
from advcloak_jax.config.protecting import CROPS
from advcloak_jax.data.decode import BadImageError
from advcloak_jax.data.folder import printable
from advcloak_jax.errors import UserError
from advcloak_jax.files import new_folder, require_new_folder
from advcloak_jax.jobs import inputs, programs, protect_cloak, protect_faces, protect_report, protect_trial
from advcloak_jax.jobs.protect_faces import Found, Shown
from advcloak_jax.jobs.protect_masks import make_masks, wear
from advcloak_jax.jobs.protect_trial import Outcome
from advcloak_jax.jobs.targets import LoadedTarget, load_targets
from advcloak_jax.jobs.trials import open_store
from advcloak_jax.photos import photo_file
from advcloak_jax.photos.detector import Detector
from advcloak_jax.progress import Progress

_log = logging.getLogger("advcloak_jax")
PHOTOS = "photos"
"""Sub-folder of what may be shown; the files beside it show or tell of the clean photos."""


def run(config: ProtectConfig) -> Path:
    """Protect the photos, try them on the targets, and return the folder.

    Raises UserError, leaving no folder, when the settings cannot be met.
    """
    config.require_complete()
    root, out = Path(config.photos).expanduser(), Path(config.out).expanduser()
    require_new_folder(out, f"{out}")
    if root.is_dir() and out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{out} is inside {root}, whose photos it would add to; name a folder elsewhere.")
    programs.keep(config.cache)
    paths, unread = photo_file.find(root)
    _require_own_names(root, paths, config)
    detector = None if config.detector == CROPS else Detector(Path(config.detector).expanduser())
    chosen = protect_cloak.load(config)
    size = chosen.image_size
    known = protect_faces.known_face(Path(config.who).expanduser(), detector, size) if config.who else None
    if known and not chosen.recognizer:
        raise UserError("--who needs a recogniser that compares faces; name one by --recognizer.")
    targets = load_targets(config.targets, size)
    crowd = inputs.load_faces(config.distractors, size, "skip", config.cache).images[:] if config.distractors else None

    found, left_out = protect_faces.find(root, paths, detector, chosen.recognizer, size, known)
    for one in targets:  # what cannot embed a face is told before the work
        one.target.embed(found[0].face.crop[None])
    left_out = [*left_out, *((path.relative_to(root), why) for path, why in unread)]
    for path, why in left_out:
        _log.warning("%s is left out: %s", printable(str(root / path)), why)
    masks = make_masks(chosen.cloak, found, config, size)
    with new_folder(out) as temporary:
        shown = _write_photos(root, temporary, found, masks, config, detector, size)
        outcomes = _try_out(targets, found, shown, crowd, config)
        if chosen.cloak.kind != "image":
            np.save(temporary / "mask.npy", masks[0])
        protect_report.write(temporary, config, chosen.cloak, found, left_out, shown, masks, outcomes)
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


def _try_out(
    targets: Sequence[LoadedTarget],
    found: Sequence[Found],
    shown: Sequence[Shown],
    crowd: np.ndarray | None,
    config: ProtectConfig,
) -> list[Outcome]:
    """The trial, of the photos that are surely the person's."""
    sure = [i for i, one in enumerate(found) if not one.doubtful]
    if crowd is not None and len(sure) < 2:
        _log.warning("one photo of the person is too few to be looked for among --distractors")
        crowd = None
    mates, clean, worn = (
        np.stack([part[i] for i in sure])
        for part in ([one.face.crop for one in found], [one.clean for one in shown], [one.worn for one in shown])
    )
    return protect_trial.try_out(targets, mates, clean, worn, crowd, open_store(config.cache)) if targets else []


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
) -> list[Shown]:
    """Write the protected photos; returns the faces as they are then found, in the files or as a web site shows them.

    Raises UserError for a photo that cannot be read any more, or not be written.
    """
    shown = []
    passes_on = bool(config.upload_side or config.upload_quality)
    with Progress("protecting", len(found), "photos") as progress:
        for one, mask in zip(found, masks, strict=True):
            path = out / PHOTOS / photo_file.name_of(one.path, config.file_format)
            try:
                photo = photo_file.read(root / one.path)
                photo_file.write(path, wear(photo, one.face, mask))
                written = photo_file.read(path).picture
            except BadImageError as error:
                name = printable(str(root / one.path))
                raise UserError(f"{name} {error}; mend it or take it out, and start again.") from error
            worn, again = protect_faces.shown(written, one.face, detector, config, size)
            clean = protect_faces.shown(photo.picture, one.face, detector, config, size)[0] if passes_on else None
            shown.append(Shown(one.face.crop if clean is None else clean, worn, again))
            progress.update(1)
    return shown
