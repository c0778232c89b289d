"""Faces of InsightFace's training sets: `train.rec` with its index `train.idx` and its `property`."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from advcloak_jax.config import BadImage
from advcloak_jax.data.decode import BadImageError, Progress
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.listing import Listing, load_listing
from advcloak_jax.data.recordio import BadRecordError, Record, RecordFile, read_index
from advcloak_jax.errors import UserError

_log = logging.getLogger("advcloak_jax")

DEFAULT_FILE = "train.rec"
NAME_DIGITS = 7


def load_recordio(path: Path, *, image_size: int, on_bad_image: BadImage, progress: Progress | None = None) -> FaceSet:
    """Read a set into memory; an identity's name is its label in digits. Bad images: see listing.load_listing."""
    return load_listing(list_recordio(path), image_size=image_size, on_bad_image=on_bad_image, progress=progress)


def list_recordio(path: Path) -> Listing:
    """Images of a .rec file (or of train.rec in a folder), in the order of their keys.

    Every record is read once and checked; those without an image (the set's own header, the identities' ranges of
    images) are passed over. A record's place in the file and its key come from the .idx file; where there is none, the
    file is read from its beginning and keys are counted.
    Raises UserError when a file is missing or is not of its kind.
    """
    file = path / DEFAULT_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"There is no file {file}; recordio: wants a .rec file or a folder with {DEFAULT_FILE}.")
    index, about = file.with_suffix(".idx"), file.with_name("property")
    records = RecordFile(file)
    classes = _classes(about)
    found = _find(records, read_index(index) if index.is_file() else None, classes)
    if not len(found.keys) and not found.bad:
        raise UserError(f"{file} holds no images.")
    labels, owner = np.unique(found.labels, return_inverse=True)

    def where(item: int) -> str:
        return _where(file, int(found.keys[item]))

    def encoded(item: int) -> bytes:
        try:
            return records.read(int(found.offsets[item])).payload
        except BadRecordError as error:
            raise BadImageError(str(error)) from error

    return Listing(
        label=f"recordio:{path}",
        owner=owner.astype(np.int32),
        names=tuple(f"{label:0{NAME_DIGITS}d}" for label in labels.tolist()),
        encoded=encoded,
        where=where,
        bad=tuple(found.bad),
        fingerprint=_fingerprint(file, index, about),
    )


class _Found(NamedTuple):
    """Images of a file: their keys [n], offsets [n] and labels [n], all int64; and what is bad: (where, reason)."""

    keys: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    bad: list[tuple[str, str]]


def _find(records: RecordFile, index: dict[int, int] | None, classes: int | None) -> _Found:
    images: list[tuple[int, int, int]] = []
    bad: list[tuple[str, str]] = []
    announced: int | None = None
    for key, offset, record in _records(records, index):
        if isinstance(record, BadRecordError):
            bad.append((_where(records.path, key), str(record)))
        elif not record.payload and len(record.labels) > 1:
            if key == 0:
                announced = int(record.labels[0]) - 1
        else:
            reason = _complaint(record, classes)
            if reason:
                bad.append((_where(records.path, key), reason))
            else:
                images.append((key, offset, int(record.labels[0])))
    # The count is a float32, exact up to 2^24.
    if index is None and announced is not None and len(images) + len(bad) < announced <= 1 << 24:
        bad.append((str(records.path), f"it holds {len(images)} of the {announced} images that its header announces"))
    columns = np.array(images, np.int64).reshape(-1, 3).T
    return _Found(columns[0], columns[1], columns[2], bad)


def _records(records: RecordFile, index: dict[int, int] | None) -> Iterator[tuple[int, int, Record | BadRecordError]]:
    """Key, offset and record, in the order of the keys."""
    if index is None:
        _log.warning("%s has no index beside it and is read from its beginning", records.path)
        for key, (offset, record) in enumerate(records.scan()):
            yield key, offset, record
        return
    for key, offset in sorted(index.items()):
        try:
            yield key, offset, records.read(offset)
        except BadRecordError as error:
            yield key, offset, error


def _complaint(record: Record, classes: int | None) -> str:
    """Why a record is not an image of a known person; "" when it is."""
    label = float(record.labels[0])
    if not record.payload:
        return "it holds no image"
    if not (label >= 0 and label.is_integer()):
        return f"its label {label:g} is no identity"
    if classes is not None and label >= classes:
        return f"its label {label:.0f} is not among the {classes} of the set's property"
    return ""


def _classes(about: Path) -> int | None:
    """Number of identities from "IDENTITIES,HEIGHT,WIDTH"; None without the file."""
    if not about.is_file():
        return None
    text = about.read_text(encoding="utf-8", errors="replace").strip()
    fields = text.split(",")
    if len(fields) != 3 or not all(field.strip().isdecimal() for field in fields):
        raise UserError(f"{about} holds {text[:40]!r} instead of IDENTITIES,HEIGHT,WIDTH; mend or remove it.")
    return int(fields[0])


def _where(file: Path, key: int) -> str:
    return f"{file} record {key}"


def _fingerprint(*files: Path) -> str:
    states = ((file, file.stat()) for file in files if file.is_file())
    return " ".join(f"{file.name}:{state.st_size}:{state.st_mtime_ns}" for file, state in states)
