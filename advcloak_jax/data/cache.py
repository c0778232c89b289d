"""Arrays that take long to make, kept on disk as memory maps."""

import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from advcloak_jax import files
from advcloak_jax.errors import UserError

_log = logging.getLogger("advcloak_jax")

_SUM_BYTES = 4
_CHUNK = 1 << 24


def cached_array(path: Path, shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
    """The uint8 array stored in `path`, as a read-only memory map; made by `make` and stored when it is not there.

    `make` must return `shape` in uint8. A damaged or foreign file is made again, with a warning.
    Raises UserError when the file cannot be written.
    """
    kept = read_array(path)
    if kept is not None and kept.shape == shape and kept.dtype == np.uint8:
        return kept
    if path.exists():
        _log.warning("%s is damaged and is made again", path)
    write_array(path, make())
    return np.load(path, mmap_mode="r")


def write_array(path: Path, array: np.ndarray) -> None:
    """Store an array, whole or not at all: a .npy followed by the CRC-32 of all before it.

    Raises UserError when the file cannot be written.
    """
    try:
        with files.replacing(path) as temporary:
            np.save(temporary, array)
            total = _crc(temporary, temporary.stat().st_size)
            with temporary.open("ab") as handle:
                handle.write(total.to_bytes(_SUM_BYTES, "little"))
                handle.flush()
                os.fsync(handle.fileno())
    except OSError as error:
        raise UserError(
            f"Cannot write the cache {path}: {error.strerror or error}; free space or choose another."
        ) from error


def read_array(path: Path) -> np.ndarray | None:
    """What `write_array` stored, as a read-only memory map; None when the file is missing, torn, altered or foreign.

    The file is read through once (about a second per GiB), so that a bad one is noticed instead of being used.
    """
    try:
        payload = path.stat().st_size - _SUM_BYTES
        with path.open("rb") as handle:
            handle.seek(max(payload, 0))
            expected = int.from_bytes(handle.read(), "little")
        if payload < 0 or _crc(path, payload) != expected:
            return None
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None


def _crc(path: Path, size: int) -> int:
    """CRC-32 of the first `size` bytes."""
    total = 0
    with path.open("rb") as handle:
        while size > 0 and (chunk := handle.read(min(_CHUNK, size))):
            total = zlib.crc32(chunk, total)
            size -= len(chunk)
    return total
