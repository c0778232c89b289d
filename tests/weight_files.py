"""Files of weights written by the definition of their formats, for tests: whole, odd and hostile ones."""

import io
import pickle
import struct
import zipfile

from advcloak_jax.recognizers.weights.pytorch_file import MAGIC


def archive(data_pkl: bytes, records: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file as PyTorch 1.6 and newer write it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as opened:
        opened.writestr("archive/data.pkl", data_pkl)
        for name, data in (records or {}).items():
            opened.writestr(f"archive/{name}", data)
    return file.getvalue()


def legacy(main: bytes, keys: bytes = b"\x80\x02].", *, little_endian: bool = True) -> bytes:
    """A file as PyTorch before 1.6 writes it."""
    head = (pickle.dumps(value, 2) for value in (MAGIC, 1001, {"little_endian": little_endian}))
    return b"".join(head) + main + keys


def safetensors_bytes(entries: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """The format by its definition: length, JSON header, data."""
    header, data = {}, b""
    for name, (dtype, shape, values) in entries.items():
        offsets = [len(data), len(data) + len(values)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += values
    text = str(header).replace("'", '"').encode()
    return struct.pack("<Q", len(text)) + text + data


def word(value: object) -> bytes:
    """The operations that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def storage(
    key: str = "0", count: object = 6, kind: bytes = b"ctorch\nFloatStorage\n", view: tuple[str, int, int] | None = None
) -> bytes:
    """A reference to a storage; view (its key, start and count) as old files have it."""
    return b"(" + word("storage") + kind + word(key) + word("cpu") + word(count) + (word(view) if view else b"") + b"tQ"


def stored_tensor(size: object = (2, 3), stride: object = (3, 1), offset: object = 0, run: bytes = b"") -> bytes:
    words = (run or storage()) + word(offset) + word(size) + word(stride) + b"\x89}"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + words + b"tR"


def newer_tensor(dtype: str) -> bytes:
    """A tensor of a type that has no storage of its own."""
    run = storage(count=24, kind=b"ctorch.storage\nUntypedStorage\n")
    words = run + word(0) + word((1,)) + word((1,)) + b"\x89}ctorch\n" + dtype.encode() + b"\n"
    return b"ctorch._utils\n_rebuild_tensor_v3\n(" + words + b"tR"


def state_file(value: bytes, data: bytes = bytes(24), extra: bytes = b"") -> bytes:
    return archive(b"\x80\x02}" + word("0.weight") + value + b"s" + extra + b".", {"data/0": data})
