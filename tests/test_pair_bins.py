"""Pairs in .bin files: what is read, that nothing in a file is run, and that damage is told in one sentence."""

import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_files import expected, load, png, shown

from advcloak_jax.errors import UserError


def write(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def python2(images: list[bytes], same: list[bool]) -> bytes:
    """As Python 2's cPickle writes ([str], [bool]) in protocol 2: byte strings are BINSTRING."""
    strings = b"".join(b"T" + len(image).to_bytes(4, "little") + image for image in images)
    truths = b"".join(b"\x88" if one else b"\x89" for one in same)
    return b"\x80\x02](" + strings + b"e](" + truths + b"e\x86."


IMAGES, SAME = [png(i) for i in range(24)], [i % 2 == 0 for i in range(12)]
WRITTEN = {
    "bytes": (IMAGES, SAME),
    "arrays": ([np.frombuffer(image, np.uint8) for image in IMAGES], SAME),
    "columns, as old OpenCV encodes": (
        [np.frombuffer(image, np.uint8).reshape(-1, 1).copy() for image in IMAGES],
        SAME,
    ),
    "numpy truths": (IMAGES, np.array(SAME)),
    "numpy scalars": (IMAGES, list(np.array(SAME))),
    "numbers": (IMAGES, [int(one) for one in SAME]),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", WRITTEN)
def test_bin_files_of_every_protocol_are_read(tmp_path: Path, kind: str, protocol: int) -> None:
    found = load(write(tmp_path / "lfw.bin", WRITTEN[kind], protocol))
    assert shown(found) == expected(*((2 * i, 2 * i + 1, one) for i, one in enumerate(SAME)))
    assert found.fold is not None
    # scikit-learn's KFold, unshuffled: the first folds take the rest.
    assert found.fold.tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert found.person is None


def test_bytearrays_are_read(tmp_path: Path) -> None:
    found = load(write(tmp_path / "lfw.bin", ([bytearray(image) for image in IMAGES], SAME), protocol=5))
    assert shown(found) == expected(*((2 * i, 2 * i + 1, one) for i, one in enumerate(SAME)))


def test_bin_files_of_python_2_are_read(tmp_path: Path) -> None:
    (tmp_path / "lfw.bin").write_bytes(python2(IMAGES, SAME))
    assert shown(load(tmp_path / "lfw.bin")) == expected(*((2 * i, 2 * i + 1, one) for i, one in enumerate(SAME)))


class Evil:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def hostile(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Files that would do something if they were unpickled, and what the refusal says."""
    touch = f"touch {folder}/executed"
    code = f"open({str(folder / 'executed')!r}, 'w')"
    array = np.array([Evil(os.system, touch)], dtype=object)
    return {
        "system": (pickle.dumps(([Evil(os.system, touch)], [True])), r"refers to posix\.system"),
        "eval": (pickle.dumps(Evil(eval, code)), r"refers to builtins\.eval"),
        "protocol 0": (pickle.dumps(Evil(exec, code), protocol=0), "exec, that is, asks to run code"),
        "object array": (pickle.dumps((array, [True])), "array of type O8"),
        "object array of nothing": (pickle.dumps((np.array([None]), [True])), "array of type O8"),
        "floats": (pickle.dumps(([np.zeros(3)], [True])), "array of type f8"),
        "class": (pickle.dumps((OrderedDict(a=1), [True])), r"refers to collections\.OrderedDict"),
        "INST": (f"(S'{touch}'\nios\nsystem\n.".encode(), r"refers to os\.system"),
        "attribute of a permitted module": (b"cnumpy\nload\n(S'x'\ntR.", r"refers to numpy\.load"),
        "a dotted way around": (b"\x80\x04\x8c\x05numpy\x8c\x0ecore.os.system\x93.", r"numpy\.core\.os\.system"),
        "extension registry": (b"\x80\x02\x82\x01.", "holds objects"),
        "persistent": (b"Psome\n.", "holds objects"),
        "dict": (pickle.dumps({"a": 1}), "holds objects"),
        "one text a thousand times": (
            b"\x80\x02c_codecs\nencode\nq\x00X\xe8\x03\x00\x00"
            + b"a" * 1000
            + b"X\x06\x00\x00\x00latin1\x86q\x01R0"
            + b"h\x00h\x01R0" * 1000
            + b".",
            "more bytes than it has",
        ),
        "other coding": (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "coding rot13"),
        "memo far away": (b"\x80\x02]r\xff\xff\xff\xff.", "else than two lists"),
        "huge announcement": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.", "cut off or damaged"),
        "empty array": (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R](e\x86.", "does not say what is in it"),
    }


@pytest.mark.parametrize("kind", hostile(Path("/nonexistent")))
def test_nothing_in_a_bin_file_is_run(tmp_path: Path, kind: str) -> None:
    data, message = hostile(tmp_path)[kind]
    (tmp_path / "lfw.bin").write_bytes(data)
    with pytest.raises(UserError, match=message) as refusal:
        load(tmp_path / "lfw.bin")
    assert "nothing of it was run" in str(refusal.value)
    assert not (tmp_path / "executed").exists()


def test_the_hostile_files_are_really_hostile(tmp_path: Path) -> None:
    for kind in ("system", "eval", "object array"):
        pickle.loads(hostile(tmp_path)[kind][0])
        assert (tmp_path / "executed").exists()
        (tmp_path / "executed").unlink()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((IMAGES[:23], SAME), "23 images for 12 pairs"),
        ((IMAGES, SAME[:11]), "24 images for 11 pairs"),
        (([], []), "list of truth values"),
        ((IMAGES, [2] * 12), "list of truth values"),
        (([1] * 24, SAME), "list of JPEG or PNG"),
        ((IMAGES, b"\1" * 12), "else than two lists"),
        (IMAGES, "else than two lists"),
        (([*IMAGES[:23], b"no image"], SAME), r"image 23 of .*lfw\.bin is unusable"),
        (([*IMAGES[:23], IMAGES[23][:60]], SAME), r"image 23 of .*lfw\.bin is unusable"),
        ((IMAGES, [True] * 12), "one kind only"),
    ],
)
def test_bin_files_that_do_not_fit_are_told(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(write(tmp_path / "lfw.bin", value))


def test_a_bad_image_takes_its_pair_along(tmp_path: Path) -> None:
    found = load(write(tmp_path / "lfw.bin", ([*IMAGES[:3], b"no image", *IMAGES[4:]], SAME)), on_bad_image="skip")
    assert len(found.images) == 23
    assert shown(found) == expected(*((2 * i, 2 * i + 1, one) for i, one in enumerate(SAME) if i != 1))


@pytest.mark.parametrize("kind", ["bytes", "arrays"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_damaged_files_are_pairs_or_one_sentence(tmp_path: Path, kind: str, protocol: int) -> None:
    images = [png(i, "BMP") for i in range(4)]  # without checksums, so that some damage goes unnoticed
    wrapped: list[Any] = images if kind == "bytes" else [np.frombuffer(image, np.uint8) for image in images]
    whole = pickle.dumps((wrapped, [True, False]), protocol=protocol)
    # Most of a file is pixels; what lies between the images is the pickle itself, hit as often.
    starts = [place for _, _, place in pickletools.genops(whole)]
    rng = np.random.default_rng(0)
    survived = 0
    for number in range(400):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(len(data)) if number % 2 else starts[rng.integers(len(starts))]
            data[place] = rng.integers(256)
        if number % 8 == 0:
            del data[rng.integers(len(data)) :]
        (tmp_path / "fuzzed.bin").write_bytes(data)
        try:
            found = load(tmp_path / "fuzzed.bin")
        except UserError:
            continue
        assert len(found.images) == 4
        assert sorted(found.same.tolist()) == [False, True]
        survived += 1
    assert 5 < survived < 380
