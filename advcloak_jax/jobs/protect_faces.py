"""The person's face in each of their photos."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from advcloak_jax.config import ProtectConfig
from advcloak_jax.data.decode import BadImageError, fit
from advcloak_jax.data.folder import printable
from advcloak_jax.errors import UserError
from advcloak_jax.jobs.targets import EMBEDDED_AT_A_TIME, LoadedTarget, embed
from advcloak_jax.photos import alignment, person, photo_file
from advcloak_jax.photos.detector import Detector, overlap
from advcloak_jax.progress import Progress

UNLIKE, USUAL = 0.5, 90
"""A photo may show somebody else when its cosine to the person is below this share of that percentile of all photos'
(not of their median: most may show others)."""
STRANGER = 0.2
"""It may as well when the cosine is below this, which recognisers hardly give to two photos of one person."""
SAME_BOX = 0.5
"""Least overlap of a face's box before and after it was protected."""
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
    the person in --who or in the other photos, None where no recogniser tells; doubtful: whether it is so low that the
    photo may show somebody else."""

    path: Path
    face: Face
    faces: int
    alike: float | None
    doubtful: bool = False


@dataclasses.dataclass(frozen=True)
class Shown:
    """A face as others get to see it, [S, S, 3] uint8 each: in the clean photo and in the protected one, as they are or
    as a web site shows them. again: whether the detector finds it in the protected one."""

    clean: np.ndarray
    worn: np.ndarray
    again: bool


def find(
    root: Path,
    paths: Sequence[Path],
    detector: Detector | None,
    recognizer: LoadedTarget | None,
    image_size: int,
    known: Face | None = None,
) -> tuple[list[Found], list[tuple[Path, str]]]:
    """The person, `known` if given, in the photos below `root`, and the photos that have to be left out, with why.

    Raises UserError when no photo has a face, or when one has several and no recogniser tells them apart.
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
    if not seen:
        path, why = left_out[0]
        raise UserError(
            f"{root} holds no photo with a face that can be used ({path}: {why}); name another folder, or --detector."
        )
    if recognizer is None:
        several = [path for path, faces in seen if len(faces) > 1]
        if several:
            more = f" (and {len(several) - 1} more photos)" if len(several) > 1 else ""
            raise UserError(
                f"{printable(str(root / several[0]))}{more} shows several faces; name --recognizer, which tells the "
                "person among them, or take it out."
            )
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
    """The faces of a photo, the largest first; without a detector the photo is one.

    Raises BadImageError when it cannot be, by its shape or size.
    """
    if detector is None:
        fit(picture, image_size)
        matrix = alignment.whole(*picture.size, image_size)
        return [Face(alignment.crop(picture, matrix, image_size), matrix, None)]
    found = []
    for one in detector.find(picture):
        matrix = alignment.similarity(one.points, image_size)
        found.append(Face(alignment.crop(picture, matrix, image_size), matrix, one.box))
    return found


def shown(
    picture: Image.Image, before: Face, detector: Detector | None, config: ProtectConfig, image_size: int
) -> tuple[np.ndarray, bool]:
    """The crop [S, S, 3] of the face as anybody finds it in the photo, or in what a web site makes of it.

    before: the face in the photo as it was. Where it is found no more, which the flag tells, the crop is taken there.
    """
    passed = photo_file.passed_on(picture, config.upload_side, config.upload_quality)
    scale = passed.width / picture.width
    if before.box is None:
        return alignment.crop(passed, alignment.whole(*passed.size, image_size), image_size), True
    faces = faces_of(passed, detector, image_size)
    shares = [overlap(before.box * scale, face.box) for face in faces if face.box is not None]
    if shares and max(shares) > SAME_BOX:
        return faces[int(np.argmax(shares))].crop, True
    return alignment.crop(passed, before.matrix / [scale, scale, 1], image_size), False


def _told_by(recognizer: LoadedTarget, seen: Sequence[tuple[Path, list[Face]]], known: Face | None) -> list[Found]:
    """The person among the faces, by their embeddings."""
    crops = [face.crop for _, faces in seen for face in faces] + ([known.crop] if known else [])
    parts = [crops[i : i + EMBEDDED_AT_A_TIME] for i in range(0, len(crops), EMBEDDED_AT_A_TIME)]
    with Progress("telling the person", len(crops), "faces") as progress:
        embeddings = np.concatenate([embed(recognizer.target, np.stack(part), progress) for part in parts])
    *own, rest = np.split(embeddings, np.cumsum([len(faces) for _, faces in seen]))
    chosen, alike = person.choose(own, rest[0] if known else None)
    usual = float(np.percentile(alike, USUAL))
    least = max(UNLIKE * usual, STRANGER)
    if alike.max() < least:
        _log.warning("the recogniser finds no one person in these photos: make sure that they are of one")
        least = -1.0
    found = [
        Found(path, faces[number], len(faces), float(cosine), bool(cosine < least))
        for (path, faces), number, cosine in zip(seen, chosen, alike, strict=True)
    ]
    for one in found:
        if one.doubtful:
            _log.warning(
                "%s may show somebody else (cosine to the person %.2f, in others up to %.2f): it gets the mask, which "
                "is made without it",
                printable(str(one.path)),
                one.alike,
                usual,
            )
    return found
