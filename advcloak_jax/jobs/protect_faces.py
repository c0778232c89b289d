"""The person's face in each of their photos."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from advcloak_jax.data.decode import BadImageError
from advcloak_jax.data.folder import printable
from advcloak_jax.errors import UserError
from advcloak_jax.jobs.targets import LoadedTarget, embed
from advcloak_jax.photos import alignment, person, photo_file
from advcloak_jax.photos.detector import Detector, overlap
from advcloak_jax.progress import Progress

UNLIKE = 0.5
"""Share of the photos' median cosine to the person below which a photo may show somebody else."""
_log = logging.getLogger("advcloak_jax")


@dataclasses.dataclass(frozen=True)
class Face:
    """A face in a photo: its crop [S, S, 3] uint8, the matrix [2, 3] to it, its box [4] (None: of a photo of crops)."""

    crop: np.ndarray
    matrix: np.ndarray
    box: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Found:
    """The person in a photo. path: below the folder; faces: how many the photo shows; alike: the cosine of the face to
    the person in --who or in the other photos, None where no recogniser tells."""

    path: Path
    face: Face
    faces: int
    alike: float | None


def find(
    root: Path,
    paths: Sequence[Path],
    detector: Detector | None,
    recognizer: LoadedTarget | None,
    image_size: int,
    known: Face | None = None,
) -> tuple[list[Found], list[tuple[Path, str]]]:
    """The person, `known` if given, in the photos below `root`, and the photos that are left out, with why.

    Raises UserError when no photo has a face.
    """
    seen: list[tuple[Path, list[Face]]] = []
    left_out: list[tuple[Path, str]] = []
    with Progress("finding faces", len(paths), "photos") as progress:
        for path in paths:
            try:
                faces = faces_of(photo_file.read(path).picture, detector, image_size)
            except BadImageError as error:
                left_out.append((path.relative_to(root), str(error)))
            else:
                if faces:
                    seen.append((path.relative_to(root), faces))
                else:
                    left_out.append((path.relative_to(root), "no face was found"))
            progress.update(1)
    for path, why in left_out:
        _log.warning("%s is left out: %s", printable(str(root / path)), why)
    if not seen:
        raise UserError(f"{root} holds no photo with a face that can be used; name another folder.")
    if recognizer is None:
        if any(len(faces) > 1 for _, faces in seen):
            _log.warning("without --recognizer the largest face of every photo is taken for the person's")
        return [Found(path, faces[0], len(faces), None) for path, faces in seen], left_out
    return _told_by(recognizer, seen, known), left_out


def known_face(path: Path, detector: Detector | None, image_size: int) -> Face:
    """The face in a photo of the person alone. Raises UserError when it shows none, or several."""
    try:
        faces = faces_of(photo_file.read(path).picture, detector, image_size)
    except BadImageError as error:
        raise UserError(f"--who {path} cannot be used ({error}); name a photo of the person alone.") from error
    if len(faces) != 1:
        raise UserError(f"--who {path} shows {len(faces)} faces; name a photo of the person alone.")
    return faces[0]


def faces_of(picture: Image.Image, detector: Detector | None, image_size: int) -> list[Face]:
    """The faces of a photo, the largest first; without a detector the photo is one."""
    if detector is None:
        matrix = alignment.whole(*picture.size, image_size)
        return [Face(alignment.crop(picture, matrix, image_size), matrix, None)]
    found = []
    for one in detector.find(picture):
        matrix = alignment.similarity(one.points, image_size)
        found.append(Face(alignment.crop(picture, matrix, image_size), matrix, one.box))
    return found


def again(
    picture: Image.Image, before: Face, detector: Detector | None, image_size: int, scale: float = 1.0
) -> Face | None:
    """The same face in the protected photo as anybody else would find it; None where nobody does.

    scale: side of the picture over that of the photo in which the face was found.
    """
    faces = faces_of(picture, detector, image_size)
    if before.box is None:
        return faces[0]
    shares = [overlap(before.box * scale, face.box) for face in faces if face.box is not None]
    best = int(np.argmax(shares)) if shares else -1
    return faces[best] if shares and shares[best] > UNLIKE else None


def _told_by(recognizer: LoadedTarget, seen: Sequence[tuple[Path, list[Face]]], known: Face | None) -> list[Found]:
    """The person among the faces, by their embeddings."""
    crops = np.stack([face.crop for _, faces in seen for face in faces] + ([known.crop] if known else []))
    with Progress("telling the person", len(crops), "faces") as progress:
        embeddings = embed(recognizer.target, crops, progress)
    *own, rest = np.split(embeddings, np.cumsum([len(faces) for _, faces in seen]))
    chosen, alike = person.choose(own, rest[0] if known else None)
    found = [
        Found(path, faces[number], len(faces), float(cosine))
        for (path, faces), number, cosine in zip(seen, chosen, alike, strict=True)
    ]
    usual = float(np.median(alike))
    for one in found:
        if one.alike is not None and one.alike < UNLIKE * usual:
            _log.warning(
                "%s may show somebody else: its cosine to the person is %.2f, of most %.2f",
                printable(str(one.path)),
                one.alike,
                usual,
            )
    return found
