"""What torch.save writes: a zip archive since PyTorch 1.6, a row of pickles before."""

import io
import struct
import zipfile
from typing import Any

import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.weights.inert_pickle import load
from advcloak_jax.recognizers.weights.state_dict import find
from advcloak_jax.recognizers.weights.tensors import ELEMENTS, Tensor, to_arrays

MAGIC = 0x1950A86A20F9469CFC6C
"""The number that the first pickle of an old file holds."""
# What zipfile raises for archives it cannot read, damaged ones included.
ZIP_ERRORS = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError),
    *(EOFError, OSError, OverflowError, struct.error),
)


def read_zip(data: bytes, source: str, key: str = "") -> dict[str, np.ndarray]:
    """The state dict of a file of PyTorch 1.6 or newer, or of a TorchScript file.

    data: the whole file; source: its name for messages; key: see `state_dict.find`. Raises UserError.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except ZIP_ERRORS as error:
        raise UserError(f"{source} is damaged: its zip archive ends early. Download it again.") from error
    if sum(record.compress_size for record in archive.infolist()) > len(data):
        raise UserError(f"{source} is refused: the records of its zip archive overlap.")
    names = archive.namelist()
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        inside = "arrays of NumPy" if any(name.endswith(".npy") for name in names) else "no data.pkl"
        raise UserError(
            f"{source} is a zip archive with {inside}, not of torch.save. If the weights are in it, unzip it."
        )
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names and _record(archive, f"{root}byteorder", source) == b"big":
        raise UserError(f"{source} was written on a big-endian machine; save it again on a usual one.")
    tree, _ = load(io.BytesIO(_record(archive, pickles[0], source)), source)
    tensors = find(tree, Tensor, source, key)
    return to_arrays(tensors, lambda name: _record(archive, f"{root}data/{name}", source), source, len(data))


def _record(archive: zipfile.ZipFile, name: str, source: str) -> bytes:
    """A record's bytes, their checksum checked. PyTorch never compresses records, so that none can swell."""
    try:
        record = archive.getinfo(name)
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise UserError(f"{source} is compressed, as PyTorch's files never are; unzip it, or download it again.")
        return archive.read(record)
    except (*ZIP_ERRORS, KeyError) as error:
        raise UserError(f"{source} is damaged: its record {name!r} cannot be read. Download it again.") from error


def is_legacy(data: bytes) -> bool:
    """Whether a file begins like one of PyTorch 0.2 to 1.5: a pickle of the magic number."""
    return data[:1] == b"\x80" and b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"." in data[:32]


def read_legacy(data: bytes, source: str, key: str = "") -> dict[str, np.ndarray]:
    """The state dict of a file of PyTorch 0.2 to 1.5.

    Pickles of the magic number, the version, the machine, what was saved and the keys of its storages, then for each
    key the number of elements (8 bytes) and the elements. Arguments and errors as for `read_zip`.
    """
    stream = io.BytesIO(data)
    magic, version, machine = (load(stream, source)[0] for _ in range(3))
    if magic != MAGIC or version != 1001 or not isinstance(machine, dict):
        raise UserError(f"{source} is of a version of PyTorch's old format that cannot be read; save it again.")
    if machine.get("little_endian") is not True:
        raise UserError(f"{source} was written on a big-endian machine; save it again on a usual one.")
    tree, storages = load(stream, source)
    keys: Any = load(stream, source)[0]
    damaged = UserError(f"{source} is damaged: its storages end early. Download it again.")
    places: dict[str, memoryview] = {}
    for name in keys if isinstance(keys, list) else ():
        head = stream.read(8)
        if not isinstance(name, str) or name not in storages or len(head) < 8:
            raise damaged
        length = struct.unpack("<q", head)[0] * ELEMENTS[storages[name].kind].itemsize
        start = stream.tell()
        if not 0 <= length <= len(data) - start:
            raise damaged
        places[name] = memoryview(data)[start : start + length]
        stream.seek(start + length)
    tensors = find(tree, Tensor, source, key)
    if not all(tensor.storage.key in places for tensor in tensors.values()):
        raise damaged
    return to_arrays(tensors, places.__getitem__, source, len(data))
