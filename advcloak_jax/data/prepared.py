"""Faces of a prepared set: its pictures stay on disk, in array_record shards, and are decoded when asked for."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from advcloak_jax.data.decode import BadImageError, Progress, fit
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.manifest import MANIFEST, Manifest, read_manifest, read_people, verify
from advcloak_jax.data.records import picture
from advcloak_jax.data.rows import Lazy
from advcloak_jax.errors import UserError

_log = logging.getLogger("advcloak_jax")

_BLOCK = 32  # pictures per thread-pool task; fewer are not worth handing to threads


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a set made by `advcloak_jax.data.prepare`."""
    return (folder / MANIFEST).is_file()


def open_prepared(folder: Path, *, image_size: int, progress: Progress | None = None) -> FaceSet:
    """The faces of a set made by `advcloak_jax.data.prepare`, checked against its manifest, without reading pictures.

    Memory is that of the identities and names alone. Pictures of another size are resized as they are read.
    Raises UserError when a file is damaged or missing, or the pictures are too small for `image_size`.
    """
    manifest = read_manifest(folder)
    total = sum(shard.records for shard in manifest.shards)

    def report(done: int) -> None:
        if progress is not None:
            progress(f"checking {folder}", done, total)

    verify(folder, manifest, report)
    identity, names = read_people(folder, manifest)
    if manifest.image_size != image_size:
        try:
            fit(Image.new("RGB", (manifest.image_size, manifest.image_size)), image_size)
        except BadImageError as error:
            raise UserError(f"{folder}: {error}; prepare it again or lower --image-size.") from error
        _log.warning("%s: its images are not %dx%d and are resized", folder, image_size, image_size)
    return FaceSet(RecordImages(folder, manifest, image_size), identity, names)


class _Shard(NamedTuple):
    """A file of records, as array_record wants to be told of it."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class RecordImages(Lazy):
    """Pictures of a prepared set, [n, H, W, 3] uint8: what is asked for is read and decoded, by several threads.

    Can be sent to another process, which opens the files for itself. Raises UserError for a picture it cannot read.
    """

    def __init__(self, folder: Path, manifest: Manifest, image_size: int) -> None:
        count = sum(shard.records for shard in manifest.shards)
        super().__init__((count, image_size, image_size, 3), np.uint8)
        self._folder, self._encoding, self._stored_size = folder, manifest.encoding, manifest.image_size
        self._shards = [
            _Shard(str(folder / shard.file), 0, shard.records, shard.records)
            for shard in manifest.shards
            if shard.records
        ]
        self._open()

    def _open(self) -> None:
        # Here, because importing them costs seconds that most jobs need not spend, and by the thread that opens the
        # set: TFDS imports lazily while it is imported, and two threads that come upon that wait for ever.
        import tensorflow_datasets  # noqa: F401
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._records: Any = ArrayRecordDataSource(self._shards)
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_records", "_pool")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _take(self, numbers: np.ndarray) -> np.ndarray:
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)

        def read_some(start: int) -> None:
            for place in range(start, min(start + _BLOCK, len(numbers))):
                images[place] = self._read(int(numbers[place]))

        starts = range(0, len(numbers), _BLOCK)
        list(map(read_some, starts) if len(starts) < 2 else self._pool.map(read_some, starts))
        return images

    def _read(self, number: int) -> np.ndarray:
        try:
            return picture(self._records[number], self._encoding, self._stored_size, self.shape[1])
        except BadImageError as error:
            reason = str(error)
        except Exception as error:  # array_record and protobuf have no base class of their errors
            reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{self._folder}: picture {number} is damaged ({reason}); copy or prepare the set again.")
