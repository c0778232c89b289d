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

    The file is a .npy followed by the CRC-32 of all before it, read through once at each opening (about a second per
    GiB), so that a torn, altered or foreign file is noticed and made again instead of being trained on.
    `make` must return `shape` in uint8. Raises UserError when the file cannot be written.
    """
    if path.exists():
        kept = _open(path, shape)
        if kept is not None:
            return kept
        _log.warning("%s is damaged and is made again", path)
    array = make()
    try:
        with files.replacing(path) as temporary:
            np.save(temporary, array)
            total = _crc(temporary, temporary.stat().st_size)
            with temporary.open("ab") as handle:
                handle.write(total.to_bytes(_SUM_BYTES, "little"))
                handle.flush()
                os.fsync(handle.fileno())
    except OSError as error:
        raise UserError(f"Cannot write the cache {path}: {error.strerror}; free space or choose another.") from error
    return np.load(path, mmap_mode="r")


def _open(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The stored array, or None when the file is not what `cached_array` wrote for this shape."""
    try:
        payload = path.stat().st_size - _SUM_BYTES
        with path.open("rb") as handle:
            handle.seek(max(payload, 0))
            expected = int.from_bytes(handle.read(), "little")
        if payload < 0 or _crc(path, payload) != expected:
            return None
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _crc(path: Path, size: int) -> int:
    """CRC-32 of the first `size` bytes."""
    total = 0
    with path.open("rb") as handle:
        while size > 0 and (chunk := handle.read(min(_CHUNK, size))):
            total = zlib.crc32(chunk, total)
            size -= len(chunk)
    return total
