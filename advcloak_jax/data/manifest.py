"""The manifest of a prepared set: what its shards must be, so that a torn or altered one is noticed before it is read.

A prepared set is a folder that TensorFlow Datasets opens (array_record shards, dataset_info.json, features.json) with
three files of ours: `identity.npy` and `names.json` tell who is on which picture, `faces.json` is the manifest.
"""

import dataclasses
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from advcloak_jax import files, settings
from advcloak_jax.config import Encoding
from advcloak_jax.errors import UserError

MANIFEST, IDENTITY, NAMES = "faces.json", "identity.npy", "names.json"
VERIFIED = ".verified.json"
VERSION = 1
_CHUNK = 1 << 22
_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Part:
    """A file of a prepared set: its name, its size in bytes and the CRC-32 of its bytes; records: pictures in it."""

    file: str
    bytes: int
    crc32: int
    records: int = 0


@dataclasses.dataclass(frozen=True)
class Manifest:
    """version: of this format. encoding and image_size [pixels] of the pictures. shards: in the order of the pictures.

    others: the other files that the set needs.
    """

    version: int
    encoding: Encoding
    image_size: int
    shards: tuple[Part, ...]
    others: tuple[Part, ...]


def describe(folder: Path, file: str, records: int = 0) -> Part:
    """What a file is now."""
    return Part(file, (folder / file).stat().st_size, crc32(folder / file), records)


def crc32(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    total = 0
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            total = zlib.crc32(chunk, total)
    return total


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Store a manifest, whole or not at all."""
    files.write_json(folder / MANIFEST, dataclasses.asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared set. Raises UserError when it is damaged or of another version."""
    value = settings.read_json(folder / MANIFEST)
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise UserError(f"{folder / MANIFEST} is not of this version; prepare the set again.")
    manifest = settings.from_dict(Manifest, value, str(folder / MANIFEST))
    if {part.file for part in manifest.others} != {IDENTITY, NAMES} or not manifest.shards:
        raise UserError(f"{folder / MANIFEST} does not list the set's files; prepare the set again.")
    return manifest


def verify(folder: Path, manifest: Manifest, progress: Callable[[int], None] | None = None) -> None:
    """Check every file of a set against its manifest, at about a GiB a second and more with several cores.

    Files that passed are noted in the folder, where it may be written to, and are read again only when their size,
    place or time of change differ. progress: called with the number of pictures whose shards have been checked.
    Raises UserError naming a file that is missing or is not what was prepared.
    """
    noted = _noted(folder)
    passed: dict[str, list[int]] = {}

    def check(part: Part) -> Part:
        path = folder / part.file
        try:
            state = path.stat()
            now = [state.st_size, state.st_ino, state.st_mtime_ns, part.crc32]
            same = state.st_size == part.bytes and (noted.get(part.file) == now or crc32(path) == part.crc32)
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}; copy or prepare the set again.") from error
        if not same:
            raise UserError(f"{path} is damaged: it is not what was prepared; copy or prepare the set again.")
        passed[part.file] = now
        return part

    done = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for part in pool.map(check, (*manifest.others, *manifest.shards)):
                done += part.records
                if progress is not None:
                    progress(done)
        finally:
            pool.shutdown(cancel_futures=True)
    if passed != noted and os.access(folder, os.W_OK):
        files.write_json(folder / VERIFIED, passed)


def read_people(folder: Path, manifest: Manifest) -> tuple[np.ndarray, tuple[str, ...]]:
    """Who is on which picture of a verified set: identity [n] int32, index into the names."""
    identity = np.load(folder / IDENTITY)
    names = tuple(settings.read_json(folder / NAMES))
    if len(identity) != sum(shard.records for shard in manifest.shards):
        raise UserError(f"{folder / IDENTITY} does not fit the set's shards; prepare the set again.")
    return identity, names


def _noted(folder: Path) -> dict[str, Any]:
    """What passed earlier; nothing when there is no note, or none that can be read."""
    try:
        value = settings.read_json(folder / VERIFIED)
    except (UserError, OSError):
        return {}
    return value if isinstance(value, dict) else {}
