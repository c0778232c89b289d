"""Writes RecordIO files from the format's definition, independently of the reader."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MAGIC = struct.pack("<I", 0xCED7230A)


def header(labels: float | Sequence[float], key: int) -> bytes:
    """A scalar label stands in the header; an array's length is the flag, and the array follows."""
    if isinstance(labels, int | float):
        return struct.pack("<IfQQ", 0, labels, key, 0)
    return struct.pack("<IfQQ", len(labels), 0.0, key, 0) + struct.pack(f"<{len(labels)}f", *labels)


def parts(data: bytes) -> list[bytes]:
    """A record's bytes, cut at every magic word that stands at a multiple of four."""
    found, start = [], 0
    for place in range(0, len(data) - 3, 4):
        if data[place : place + 4] == MAGIC:
            found.append(data[start:place])
            start = place + 4
    return [*found, data[start:]]


def record(data: bytes) -> bytes:
    """One record in all its parts, each padded to a multiple of four."""
    cut = parts(data)
    flags = [0] if len(cut) == 1 else [1, *[2] * (len(cut) - 2), 3]
    words = [MAGIC + struct.pack("<I", flag << 29 | len(part)) for flag, part in zip(flags, cut, strict=True)]
    return b"".join(word + part + bytes(-len(part) % 4) for word, part in zip(words, cut, strict=True))


def encoded(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    """An image file of [H, W, 3] uint8."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return stream.getvalue()


def smooth(number: int, size: int) -> np.ndarray:
    """A random picture of few details, [size, size, 3] uint8."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def write_rec(path: Path, records: Sequence[bytes]) -> list[int]:
    """Write records with their keys 0, 1, ... and the index beside them; their offsets."""
    offsets, stream = [], b""
    for data in records:
        offsets.append(len(stream))
        stream += record(data)
    path.write_bytes(stream)
    path.with_suffix(".idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets)))
    return offsets


def insightface(folder: Path, people: Sequence[Sequence[bytes]]) -> list[int]:
    """train.rec, train.idx and property as InsightFace packs them: header, images, a record per identity."""
    images = [(label, image) for label, own in enumerate(people) for image in own]
    first = len(images) + 1
    records = [header([first, first + len(people)], 0)]
    # Both ways that published sets give a label: a scalar, and an array whose first is it.
    records += [header(label if key % 2 else [label, 0.0], key) + image for key, (label, image) in enumerate(images, 1)]
    start = 1
    for number, own in enumerate(people):
        records.append(header([start, start + len(own)], first + number))
        start += len(own)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "property").write_text(f"{len(people)},32,32")
    return write_rec(folder / "train.rec", records)
