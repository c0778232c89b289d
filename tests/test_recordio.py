"""RecordIO: what the format's definition says is read back, and damage is told record by record."""

import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from rec_files import MAGIC, encoded, header, insightface, record, smooth, write_rec

from advcloak_jax.data import sources
from advcloak_jax.data.decode import rgb_of_bytes
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.recordio import BadRecordError, RecordFile, read_index
from advcloak_jax.data.recordio_source import list_recordio, load_recordio
from advcloak_jax.errors import UserError

SIZE = 32
PEOPLE = (3, 2, 4)


@pytest.fixture
def jpegs() -> list[list[bytes]]:
    return [[encoded(smooth(10 * label + i, SIZE)) for i in range(n)] for label, n in enumerate(PEOPLE)]


def load(path: Path, policy: str = "refuse") -> FaceSet:
    return load_recordio(path, image_size=SIZE, on_bad_image=policy)  # type: ignore[arg-type]


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(rgb_of_bytes(jpeg))


@pytest.mark.parametrize("payload", [b"", b"x", MAGIC, b"ab" + MAGIC + b"cd", b"abcd" + 2 * MAGIC + b"e", 3 * MAGIC])
def test_records_come_back_whatever_their_bytes_hold(tmp_path: Path, payload: bytes) -> None:
    """Bytes that hold the magic word are stored in several parts; the words between them come back."""
    records = [header(7, 0) + payload, header([1.5, -2.0, 3.0], 1) + payload, header(0, 2) + b"last"]
    offsets = write_rec(tmp_path / "a.rec", records)
    file = RecordFile(tmp_path / "a.rec")
    one, many, last = (file.read(offset) for offset in offsets)
    assert (one.labels.tolist(), one.payload) == ([7.0], payload)
    assert (many.labels.tolist(), many.payload) == ([1.5, -2.0, 3.0], payload)
    assert last.payload == b"last"
    scanned = list(file.scan())
    assert [offset for offset, _ in scanned] == offsets
    assert [found.payload for _, found in scanned] == [payload, payload, b"last"]  # type: ignore[union-attr]
    assert read_index(tmp_path / "a.idx") == dict(enumerate(offsets))


@pytest.mark.parametrize("index", [True, False], ids=["with-index", "without"])
def test_insightface_set(tmp_path: Path, jpegs: list[list[bytes]], index: bool) -> None:
    insightface(tmp_path / "set", jpegs)
    if not index:
        (tmp_path / "set" / "train.idx").unlink()
    faces = load(tmp_path / "set")
    assert faces.names == ("0000000", "0000001", "0000002")
    assert faces.identity.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    for image, jpeg in zip(faces.images, (one for own in jpegs for one in own), strict=True):
        np.testing.assert_array_equal(image, pixels(jpeg))
    named = sources.load([f"recordio:{tmp_path}/set/train.rec"], image_size=SIZE, on_bad_image="refuse", cache=None)
    assert named.names == ("set/0000000", "set/0000001", "set/0000002")


def test_an_index_in_another_order_changes_nothing(tmp_path: Path, jpegs: list[list[bytes]]) -> None:
    insightface(tmp_path, jpegs)
    want = load(tmp_path)
    index = tmp_path / "train.idx"
    index.write_text("".join(reversed(index.read_text().splitlines(keepends=True))))
    got = load(tmp_path)
    np.testing.assert_array_equal(got.images, want.images)
    np.testing.assert_array_equal(got.identity, want.identity)


def damage(path: Path, offset: int, new: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(new)] = new
    path.write_bytes(data)


@pytest.mark.parametrize("index", [True, False], ids=["with-index", "without"])
def test_each_damaged_record_is_named_and_the_others_are_read(
    tmp_path: Path, jpegs: list[list[bytes]], index: bool
) -> None:
    offsets = insightface(tmp_path, jpegs)
    file = tmp_path / "train.rec"
    length = struct.unpack_from("<I", file.read_bytes(), offsets[4] + 4)[0]
    damage(file, offsets[2], b"\0\0\0\0")  # the magic word
    damage(file, offsets[4] + 4, struct.pack("<I", length + 40))  # a length that reaches into the next record
    damage(file, offsets[6] + 8 + 4, struct.pack("<f", 1.5))  # means nothing where the label is an array
    damage(file, offsets[7] + 8 + 4, struct.pack("<f", 1.5))  # a scalar label that is none
    damage(file, offsets[8] + 8 + 32, b"not a JPEG file at all")
    if not index:
        (tmp_path / "train.idx").unlink()
    listing = list_recordio(tmp_path)
    reasons = dict(listing.bad)
    assert reasons == {
        f"{file} record 2": "no record starts at its place",
        f"{file} record 4": "its length runs into the next record",
        f"{file} record 7": "its label 1.5 is no identity",
    }
    assert len(listing) == 6
    with pytest.raises(UserError, match=r"record \d is unusable .* and so are 3 more"):
        load(tmp_path)
    faces = load(tmp_path, "skip")
    left = [jpegs[0][0], jpegs[0][2], jpegs[1][1], jpegs[2][0], jpegs[2][3]]
    assert len(faces) == len(left)
    for image, jpeg in zip(faces.images, left, strict=True):
        np.testing.assert_array_equal(image, pixels(jpeg))
    assert faces.identity.tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("index", [True, False], ids=["with-index", "without"])
def test_a_truncated_file_gives_what_is_whole(
    tmp_path: Path, jpegs: list[list[bytes]], index: bool, caplog: pytest.LogCaptureFixture
) -> None:
    offsets = insightface(tmp_path, jpegs)
    file = tmp_path / "train.rec"
    file.write_bytes(file.read_bytes()[: offsets[5] + 20])
    if not index:
        (tmp_path / "train.idx").unlink()
    with pytest.raises(UserError, match="unusable"):
        load(tmp_path)
    with caplog.at_level(logging.WARNING):
        faces = load(tmp_path, "skip")
    assert faces.identity.tolist() == [0, 0, 0, 1]
    assert "record 5: the file ends within it" in caplog.text
    if index:
        assert "record 9: the file ends before it" in caplog.text
    else:
        assert "it holds 4 of the 9 images that its header announces" in caplog.text


def test_a_record_whose_last_part_is_missing(tmp_path: Path) -> None:
    broken = record(header(1, 0) + b"abcd" + MAGIC + b"efgh")
    first = broken[: broken.index(MAGIC, 4)]
    (tmp_path / "a.rec").write_bytes(first + record(header(2, 1) + b"next"))
    found = [what for _, what in RecordFile(tmp_path / "a.rec").scan()]
    assert str(found[0]) == "its last part is missing"
    assert found[1].payload == b"next"  # type: ignore[union-attr]
    (tmp_path / "b.rec").write_bytes(broken[len(first) :])
    with pytest.raises(BadRecordError, match="starts in the middle"):
        RecordFile(tmp_path / "b.rec").read(0)


def test_labels_must_be_among_the_propertys(tmp_path: Path, jpegs: list[list[bytes]]) -> None:
    insightface(tmp_path, jpegs)
    (tmp_path / "property").write_text("2,32,32")
    with pytest.raises(UserError, match="label 2 is not among the 2 of the set's property"):
        load(tmp_path)
    assert load(tmp_path, "skip").identity.tolist() == [0, 0, 0, 1, 1]


def test_what_cannot_be_opened(tmp_path: Path, jpegs: list[list[bytes]]) -> None:
    with pytest.raises(UserError, match=r"There is no file .*train\.rec"):
        load(tmp_path)
    (tmp_path / "train.rec").write_bytes(b"")
    with pytest.raises(UserError, match="it is empty"):
        load(tmp_path)
    insightface(tmp_path, jpegs)
    (tmp_path / "train.idx").write_text("0\t0\n1 two\n")
    with pytest.raises(UserError, match=r"train\.idx, line 2, is not a key and an offset"):
        load(tmp_path)
    (tmp_path / "train.idx").write_text("0\t0\n0\t4\n")
    with pytest.raises(UserError, match="key 0 occurs twice"):
        load(tmp_path)
    (tmp_path / "property").write_text("many")
    with pytest.raises(UserError, match=r"property holds 'many' instead of"):
        load(tmp_path)
