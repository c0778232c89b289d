"""Pairs of faces that others have drawn: pair lists (CSV, LFW's pairs.txt) and InsightFace's .bin files."""

import csv
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from advcloak_jax.config import BadImage
from advcloak_jax.data import pickled
from advcloak_jax.data.decode import (
    Progress,
    decode_all,
    read_rgb,
    rgb_of_bytes,
    settle_bad,
    warn_resized,
)
from advcloak_jax.data.folder import SUFFIXES, printable
from advcloak_jax.errors import UserError

COLUMNS = ("image1", "image2", "same")
FOLDS_OF_BIN = 10
_NUMBER = re.compile("[0-9]{1,7}")
_TRUTH = {"1": True, "true": True, "0": False, "false": False}


@dataclasses.dataclass(frozen=True)
class PairList:
    """Pairs of n different images that are not read yet.

    first, second: [m] int64, indices of images.   same: [m] bool.   fold: [m] int64, or None where there are none.
    read: gives image i as RGB, or raises BadImageError.   where: [n] what to call an image when it is bad.
    person: [n] int64 and the persons' names, or None where the list does not tell who is who.
    """

    label: str
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray | None
    read: Callable[[int], Image.Image]
    where: tuple[str, ...]
    person: np.ndarray | None
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FacePairs:
    """Pairs of faces: images [n, H, W, 3] uint8; the other fields as in PairList."""

    images: np.ndarray
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray | None
    person: np.ndarray | None
    names: tuple[str, ...]


def open_pairs(path: Path, root: Path | None) -> PairList:
    """The pairs of a file: InsightFace's when it ends in .bin, else a list of images below `root` (its own folder).

    Lists are CSV with the columns image1, image2, same (1 or 0) and perhaps fold, or LFW's pairs.txt. Images whose
    folders agree with `same` throughout tell the persons. Raises UserError for what cannot be read as either.
    """
    if path.suffix.lower() == ".bin":
        if root is not None:
            raise UserError(f"--pairs-root is for lists of files; {path} holds its images itself: drop the flag.")
        return _read_bin(path)
    try:
        text = _bytes_of(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no list of pairs in UTF-8; InsightFace's files must end in .bin.") from error
    folder = path.parent if root is None else root
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} to find the images of {path} in; correct --pairs-root.")
    lines = text.splitlines()
    if re.fullmatch(r"\s*[0-9]{1,7}(\s+[0-9]{1,7})?\s*", lines[0] if lines else ""):
        return _listed(path, folder, _lfw_rows(path, lines, folder))
    return _listed(path, folder, _csv_rows(path, lines))


def load(pairs: PairList, *, image_size: int, on_bad_image: BadImage, progress: Progress | None = None) -> FacePairs:
    """Read every image once. Pairs with a bad image are left out under "skip", with warnings.

    Raises UserError for a bad image under "refuse", and when what is left is not of both kinds.
    """
    decoded = decode_all(len(pairs.where), pairs.read, image_size, pairs.label, progress)
    settle_bad([(pairs.where[item], reason) for item, reason in decoded.bad], on_bad_image, pairs.label)
    warn_resized(decoded, image_size, pairs.label)
    place = np.full(len(pairs.where), -1)
    place[decoded.kept] = np.arange(len(decoded.kept))
    first, second = place[pairs.first], place[pairs.second]
    usable = (first >= 0) & (second >= 0)
    if len(np.unique(pairs.same[usable])) < 2:
        raise UserError(f"{pairs.label} needs usable pairs of the same and of different persons; it has one kind only.")
    return FacePairs(
        decoded.images,
        first[usable],
        second[usable],
        pairs.same[usable],
        None if pairs.fold is None else pairs.fold[usable],
        None if pairs.person is None else pairs.person[decoded.kept],
        pairs.names,
    )


@dataclasses.dataclass(frozen=True)
class _Row:
    """One line of a list; the images as paths below the root."""

    first: str
    second: str
    same: bool
    fold: str


def _csv_rows(path: Path, lines: Sequence[str]) -> Iterator[_Row]:
    reader = csv.DictReader(lines, skipinitialspace=True)
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise UserError(
            f"{path} has no column {missing[0]}: the first line must name fold (optional), {', '.join(COLUMNS)}, "
            "or be the header of LFW's pairs.txt."
        )
    try:
        for row in reader:
            values = {name: (row.get(name) or "").strip() for name in (*COLUMNS, "fold")}
            if not values["image1"] or not values["image2"] or values["same"].lower() not in _TRUTH:
                raise UserError(f"{path}, line {reader.line_num}: image1, image2 and same (1 or 0) are needed.")
            yield _Row(values["image1"], values["image2"], _TRUTH[values["same"].lower()], values["fold"])
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} is not CSV: {error}.") from error


def _lfw_rows(path: Path, lines: Sequence[str], folder: Path) -> Iterator[_Row]:
    """`FOLDS COUNT`, then for every fold COUNT lines `NAME n1 n2` and COUNT lines `NAME1 n1 NAME2 n2`; or one fold."""
    folds, count = [1, *map(int, lines[0].split())][-2:]
    rows = [(number, line.split()) for number, line in enumerate(lines[1:], 2) if line.strip()]
    if len(rows) != folds * 2 * count:
        raise UserError(f"{path} announces {folds} x 2 x {count} pairs and has {len(rows)}; restore the file.")
    found: dict[tuple[str, int], str] = {}
    for place, (number, words) in enumerate(rows):
        same = place // count % 2 == 0
        if len(words) != (3 if same else 4) or not all(map(_NUMBER.fullmatch, (words[1], words[-1]))):
            form = "NAME n1 n2" if same else "NAME1 n1 NAME2 n2"
            raise UserError(f"{path}, line {number} should read {form}; restore the file.")
        images = ((words[0], int(words[1])), (words[-2] if not same else words[0], int(words[-1])))
        for name, image in images:
            if (name, image) not in found:
                found[name, image] = _lfw_file(folder, name, image)
        yield _Row(found[images[0]], found[images[1]], same, str(place // (2 * count)) if folds > 1 else "")


def _lfw_file(folder: Path, name: str, number: int) -> str:
    """NAME/NAME_0001 with the extension that is there; where there is none, .jpg, which reading will miss."""
    stem = f"{name}/{name}_{number:04d}"
    return next((stem + suffix for suffix in sorted(SUFFIXES) if (folder / (stem + suffix)).is_file()), stem + ".jpg")


def _listed(path: Path, folder: Path, rows: Iterable[_Row]) -> PairList:
    kept = list(rows)
    if not kept:
        raise UserError(f"{path} lists no pairs.")
    files = sorted({name for row in kept for name in (row.first, row.second)})
    number = {name: i for i, name in enumerate(files)}
    first, second = (np.asarray([number[getattr(row, side)] for row in kept]) for side in ("first", "second"))
    same = np.asarray([row.same for row in kept])
    if np.any(first == second):
        raise UserError(f"{path} pairs {files[first[first == second][0]]} with itself; remove that line.")
    labels, fold = np.unique([row.fold for row in kept], return_inverse=True)
    if len(labels) > 1 and "" in labels:
        raise UserError(f"{path} gives a fold to some of its pairs only; give one to each, or to none.")
    people, person = np.unique([os.path.dirname(name) for name in files], return_inverse=True)
    told = "" not in people and np.array_equal(person[first] == person[second], same)
    source = printable(os.path.basename(os.path.abspath(folder)))
    return PairList(
        label=printable(str(path)),
        first=first,
        second=second,
        same=same,
        fold=fold if len(labels) > 1 else None,
        read=lambda i: read_rgb(folder / files[i]),
        where=tuple(printable(str(folder / name)) for name in files),
        person=person if told else None,
        names=tuple(f"{source}/{name}" for name in people) if told else (),
    )


def _read_bin(path: Path) -> PairList:
    """A pickle of (2 m encoded images, m truth values): pair i is images 2 i and 2 i + 1.

    The folds are consecutive tenths, as even as can be, the first ones longer: as the field cuts these files.
    """
    try:
        contents, truths = pickled.read_two_lists(_bytes_of(path))
    except pickled.RefusedPickleError as error:
        raise UserError(
            f"{path} {error}; nothing of it was run. Get the file again, from a source that you trust."
        ) from error
    images = [_encoded(item) for item in contents]
    same = [_truth(item) for item in (truths.ravel().tolist() if isinstance(truths, np.ndarray) else truths)]
    if not same or None in images or None in same:
        raise UserError(f"{path} should hold a list of JPEG or PNG files as bytes, and a list of truth values.")
    if len(images) != 2 * len(same):
        raise UserError(f"{path} holds {len(images)} images for {len(same)} pairs, not two each; get the file again.")
    encoded = [image for image in images if image is not None]
    parts = np.array_split(np.arange(len(same)), FOLDS_OF_BIN)
    return PairList(
        label=printable(str(path)),
        first=np.arange(len(same)) * 2,
        second=np.arange(len(same)) * 2 + 1,
        same=np.asarray(same, bool),
        fold=np.repeat(np.arange(FOLDS_OF_BIN), [len(part) for part in parts]) if len(same) >= FOLDS_OF_BIN else None,
        read=lambda i: rgb_of_bytes(encoded[i]),
        where=tuple(f"image {i} of {printable(str(path))}" for i in range(len(encoded))),
        person=None,
        names=(),
    )


def _encoded(item: object) -> bytes | None:
    if isinstance(item, np.ndarray) and item.dtype == np.uint8:
        return item.tobytes()
    return bytes(item) if isinstance(item, bytes | bytearray) else None


def _truth(item: object) -> bool | None:
    return bool(item) if isinstance(item, int) and item in (0, 1) else None


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"--pairs {path} cannot be read ({error.strerror}); name a list or a .bin file.") from error
