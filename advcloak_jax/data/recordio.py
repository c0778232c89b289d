"""RecordIO as MXNet and InsightFace write it: records of a file, each with a header, a label and a payload.

A file is a row of parts: the magic word, a word of a flag (3 bits) and a length (29 bits), so many bytes, and zeros up
to a multiple of four. A record is one part, or a first, some middle and a last one, which were cut where the record's
own bytes held the magic word at a multiple of four: that word is left out and put back between the parts here. The
record's bytes begin with a header: flag (uint32), label (float32), two identifiers (uint64), and, where the flag is
above 0, as many labels (float32) in the label's place.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from advcloak_jax.errors import UserError

MAGIC = 0xCED7230A
WHOLE, FIRST, MIDDLE, LAST = 0, 1, 2, 3

_PART = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_LENGTH_BITS = 29


class BadRecordError(Exception):
    """A record that cannot be read; the message is the reason, without the record's name."""


class Record(NamedTuple):
    """labels: [k] float32, at least one. payload: what follows the header, an encoded image or nothing."""

    labels: np.ndarray
    payload: bytes


class RecordFile:
    """Records of one file by their byte offsets, read through a memory map; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Raises UserError when the file cannot be opened or is empty."""
        self.path = path
        try:
            with path.open("rb") as handle:
                self._bytes = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is empty"
            raise UserError(f"Cannot read {path}: {reason}.") from error

    def __len__(self) -> int:
        """Size of the file in bytes."""
        return len(self._bytes)

    def read(self, offset: int) -> Record:
        """The record that starts at byte `offset`. Raises BadRecordError."""
        data, _ = self._record(offset)
        return _parse(data)

    def scan(self) -> Iterator[tuple[int, Record | BadRecordError]]:
        """Every record with its offset, in the file's order, or what is wrong with it.

        Behind a damaged record reading goes on at the next magic word that starts a record.
        """
        offset = 0
        while offset < len(self):
            found: Record | BadRecordError
            try:
                data, end = self._record(offset)
            except BadRecordError as error:
                found, end = error, self._next_start(offset + 4)
            else:
                try:
                    found = _parse(data)
                except BadRecordError as error:
                    found = error
            yield offset, found
            offset = end

    def _record(self, offset: int) -> tuple[bytes, int]:
        """Bytes of the record at `offset`, its parts joined, and the offset behind it."""
        flag, data, end = self._part(offset)
        if flag == WHOLE:
            return data, end
        if flag != FIRST:
            raise BadRecordError("it starts in the middle of a record of several parts")
        parts = [data]
        while flag != LAST:
            flag, data, end = self._part(end)
            if flag not in (MIDDLE, LAST):
                raise BadRecordError("its last part is missing")
            parts.append(data)
        return _MAGIC_BYTES.join(parts), end

    def _part(self, offset: int) -> tuple[int, bytes, int]:
        """Flag and bytes of the part at `offset`, and the offset behind it and its padding."""
        if offset < 0 or offset + _PART.size > len(self):
            raise BadRecordError("the file ends before it")
        magic, word = _PART.unpack_from(self._bytes, offset)
        if magic != MAGIC:
            raise BadRecordError("no record starts at its place")
        flag, length = word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)
        start = offset + _PART.size
        if start + length > len(self):
            raise BadRecordError("the file ends within it")
        data = self._bytes[start : start + length]
        if _aligned(data, _MAGIC_BYTES) >= 0:
            # Writers never leave the magic word there: the length is wrong and runs into the next record.
            raise BadRecordError("its length runs into the next record")
        return flag, data, start + length + -length % 4

    def _next_start(self, offset: int) -> int:
        """Offset of the next whole record or first part at or behind `offset`, or the file's end."""
        while (offset := _aligned(self._bytes, _MAGIC_BYTES, offset)) >= 0 and offset + _PART.size <= len(self):
            if _PART.unpack_from(self._bytes, offset)[1] >> _LENGTH_BITS in (WHOLE, FIRST):
                return offset
            offset += 4
        return len(self)


def _aligned(data: bytes | mmap.mmap, wanted: bytes, start: int = 0) -> int:
    """Where `wanted` first stands at a multiple of four, from `start` on; -1 where it does not."""
    while (start := data.find(wanted, start)) >= 0 and start % 4:
        start += 1
    return start


def _parse(data: bytes) -> Record:
    if len(data) < _HEADER.size:
        raise BadRecordError("it is too short for a header")
    count, label, _, _ = _HEADER.unpack_from(data)
    if count == 0:
        return Record(np.array([label], np.float32), data[_HEADER.size :])
    end = _HEADER.size + 4 * count
    if len(data) < end:
        raise BadRecordError(f"it is too short for its {count} labels")
    return Record(np.frombuffer(data, "<f4", count, _HEADER.size), data[end:])


def read_index(path: Path) -> dict[int, int]:
    """Byte offset of every record by its key, from a .idx file of "KEY<tab>OFFSET" lines.

    Raises UserError naming the line that is none, or the key that occurs twice.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"Cannot read the index {path}: {reason}; remove it to read the records without it.") from error
    offsets: dict[int, int] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) != 2 or not all(field.isdecimal() for field in fields):
            raise UserError(
                f"{path}, line {number}, is not a key and an offset; remove the file to read the records without it."
            )
        key = int(fields[0])
        if key in offsets:
            raise UserError(f"{path}, line {number}: key {key} occurs twice; remove the file to read without it.")
        offsets[key] = int(fields[1])
    return offsets
