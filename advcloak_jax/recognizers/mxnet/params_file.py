"""MXNet's binary list of named arrays (NAME-0000.params) to NumPy; only numbers are read, nothing is executed.

The layout is that of `NDArray::Save` in MXNet's src/ndarray/ndarray.cc, all little-endian: a magic uint64, a reserved
uint64, a counted list of arrays, a counted list of names. An array starts with a magic uint32 that tells its version.
"""

import math
import struct
from pathlib import Path

import numpy as np

from advcloak_jax.errors import UserError

LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA

# mshadow's type flags.
DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}
_DENSE = 0
_MAX_DIMENSIONS = 32


def read_params(path: Path) -> dict[str, np.ndarray]:
    """Every array of the file by its name, prefix and all ("arg:conv_weight", "aux:bn_moving_mean"), in its own dtype.

    Raises UserError for a file that cannot be read, is no such list, is cut short or has more than it declares, or
    holds sparse, empty, unnamed or doubly named arrays.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    reader = _Reader(content, path)
    if reader.unsigned(8) != LIST_MAGIC:
        raise UserError(f"{path} is no MXNet params file: its first eight bytes are not MXNet's mark of an array list.")
    reader.unsigned(8)  # reserved
    arrays = [_read_array(reader, number) for number in range(reader.count(smallest=4))]
    names = [_read_name(reader) for _ in range(reader.count(smallest=8))]
    if reader.remaining:
        raise UserError(f"{path} has {reader.remaining} bytes after its last array name: the file is damaged.")
    if len(names) != len(arrays):
        raise UserError(f"{path} holds {len(arrays)} arrays but {len(names)} names: save it with names.")
    named = dict(zip(names, arrays, strict=True))
    if len(named) != len(names):
        raise UserError(f"{path} holds two arrays of one name: the file is damaged.")
    return named


class _Reader:
    """A position in the file's bytes; whatever is read is first checked to be there."""

    def __init__(self, content: bytes, path: Path) -> None:
        self._content = content
        self._at = 0
        self.path = path

    @property
    def remaining(self) -> int:
        return len(self._content) - self._at

    def take(self, size: int) -> memoryview:
        if size > self.remaining:
            raise UserError(f"{self.path} ends before what it declares: it is cut short or damaged; fetch it again.")
        self._at += size
        return memoryview(self._content)[self._at - size : self._at]

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def signed(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little", signed=True)

    def integers(self, count: int, code: str) -> tuple[int, ...]:
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}")))

    def count(self, smallest: int) -> int:
        """A number of items of at least `smallest` bytes each, no more than the file has room for."""
        count = self.unsigned(8)
        if count * smallest > self.remaining:
            raise UserError(f"{self.path} declares {count} items, more than it has room for: it is damaged.")
        return count


def _read_array(reader: _Reader, number: int) -> np.ndarray:
    """Array `number` of the file, in any of MXNet's versions of the record."""
    what = f"array {number} of {reader.path}"
    magic = reader.unsigned(4)
    if magic in (V2_MAGIC, V3_MAGIC) and reader.signed(4) != _DENSE:
        raise UserError(f"{what} is stored as a sparse array: save the model with dense arrays.")
    if magic in (V1_MAGIC, V2_MAGIC, V3_MAGIC):
        shape = reader.integers(_dimensions(reader.signed(4), what), "q")
    else:  # before the versions: the magic is the number of dimensions, which are uint32
        shape = reader.integers(_dimensions(magic, what), "I")
    if (not shape and magic != V3_MAGIC) or any(length < 1 for length in shape):
        raise UserError(f"{what} has the shape {shape}, without values: save the model after its initialisation.")
    reader.take(8)  # the device it was saved from
    flag = reader.signed(4)
    if flag not in DTYPES:
        raise UserError(f"{what} has the unknown type number {flag}: save the model in float32.")
    dtype = np.dtype(DTYPES[flag])
    return np.frombuffer(reader.take(math.prod(shape) * dtype.itemsize), dtype).reshape(shape).copy()


def _dimensions(count: int, what: str) -> int:
    if not 0 <= count <= _MAX_DIMENSIONS:
        raise UserError(f"{what} declares {count} dimensions: the file is damaged or no MXNet params file.")
    return count


def _read_name(reader: _Reader) -> str:
    name = bytes(reader.take(reader.unsigned(8)))
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{reader.path} holds a name that is no text: the file is damaged.") from error
