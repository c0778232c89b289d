"""Pair lists and .bin files: what is read, that nothing in a file is run, and that damage is told in one sentence."""

import io
import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advcloak_jax.data import pair_sources
from advcloak_jax.data.pair_sources import FacePairs
from advcloak_jax.errors import UserError

SIZE = 16


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def png(number: int, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(number)).save(out, form)
    return out.getvalue()


def people(root: Path, **counts: int) -> Path:
    """root/NAME/NAME_0001.png; image i of a person shows picture(100 * its place + i)."""
    for place, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(1, count + 1):
            (root / name / f"{name}_{i:04d}.png").write_bytes(png(100 * place + i))
    return root


def load(path: Path, root: Path | None = None, on_bad_image: Any = "refuse") -> FacePairs:
    return pair_sources.load(pair_sources.open_pairs(path, root), image_size=SIZE, on_bad_image=on_bad_image)


def shown(pairs: FacePairs) -> list[tuple[bytes, bytes, bool]]:
    images = [image.tobytes() for image in pairs.images]
    return [(images[a], images[b], bool(s)) for a, b, s in zip(pairs.first, pairs.second, pairs.same, strict=True)]


def expected(*rows: tuple[int, int, bool]) -> list[tuple[bytes, bytes, bool]]:
    return [(picture(a).tobytes(), picture(b).tobytes(), s) for a, b, s in rows]


CSV = """fold,image1,image2,same
0,A/A_0001.png,A/A_0002.png,1
1,A/A_0001.png,B/B_0001.png,0
"""


def test_a_csv_list_is_read_in_its_order(tmp_path: Path) -> None:
    root = people(tmp_path / "faces", A=2, B=1)
    (tmp_path / "pairs.csv").write_text("\ufeff" + CSV)
    found = load(tmp_path / "pairs.csv", root)
    assert shown(found) == expected((1, 2, True), (1, 101, False))
    assert len(found.images) == 3
    assert found.fold is not None
    assert found.fold.tolist() == [0, 1]
    assert found.names == ("faces/A", "faces/B")
    assert found.person is not None
    np.testing.assert_array_equal(found.person[found.first] == found.person[found.second], found.same)


def test_folds_are_optional_and_persons_are_told_only_where_folders_agree(tmp_path: Path) -> None:
    people(tmp_path, A=2, B=1)
    (tmp_path / "pairs.csv").write_text(
        "image1,image2,same\nA/A_0001.png,A/A_0002.png,0\nA/A_0001.png,B/B_0001.png,1\n"
    )
    found = load(tmp_path / "pairs.csv")
    assert (found.fold, found.person, found.names) == (None, None, ())
    assert found.same.tolist() == [False, True]


def test_lfw_lists_are_read_with_their_folds(tmp_path: Path) -> None:
    people(tmp_path, A=3, B=2, C=2)
    (tmp_path / "A" / "A_0003.png").rename(tmp_path / "A" / "A_0003.jpg")
    (tmp_path / "pairs.txt").write_text("2\t1\nA\t1\t3\nA\t2\tB\t1\nB\t1\t2\nC\t2\tA\t1\n")
    found = load(tmp_path / "pairs.txt")
    assert shown(found) == expected((1, 3, True), (2, 101, False), (101, 102, True), (202, 1, False))
    assert found.fold is not None
    assert found.fold.tolist() == [0, 0, 1, 1]
    assert len(found.names) == 3
    # The development list has one count and no folds.
    (tmp_path / "pairs.txt").write_text("1\nA\t1\t3\nA\t2\tB\t1\n")
    assert load(tmp_path / "pairs.txt").fold is None


def test_pairs_of_missing_images_are_left_out_when_asked(tmp_path: Path) -> None:
    people(tmp_path, A=2, B=1)
    (tmp_path / "pairs.txt").write_text("1\t2\nA\t1\t2\nA\t1\t4\nA\t2\tB\t1\nA\t1\tD\t1\n")
    with pytest.raises(UserError, match=r"A_0004\.jpg is unusable \(not a readable file\)"):
        load(tmp_path / "pairs.txt")
    assert shown(load(tmp_path / "pairs.txt", on_bad_image="skip")) == expected((1, 2, True), (2, 101, False))
    (tmp_path / "B" / "B_0001.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="one kind only"):
        load(tmp_path / "pairs.txt", on_bad_image="skip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column image1"),
        ("fold,image1,same\n", "has no column image2"),
        ("image1,image2,same\n", "lists no pairs"),
        ("image1,image2,same\na,b,maybe\n", "line 2: image1, image2 and same"),
        ("image1,image2,same\na\n", "line 2: image1, image2 and same"),
        ("image1,image2,same\na,a,1\n", "pairs a with itself"),
        ("fold,image1,image2,same\n0,a,b,1\n,a,c,0\n", "to some of its pairs only"),
        ("2 1\nA 1 2\n", "announces 2 x 2 x 1 pairs and has 1"),
        ("1\nA 1 x\nA 1 B 1\n", "line 2 should read NAME n1 n2"),
        ("1\nA 1 2\nA 1 2\n", "line 3 should read NAME1 n1 NAME2 n2"),
        ("0\n", "lists no pairs"),
    ],
)
def test_bad_lists_are_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "pairs.csv")


def test_wrong_files_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "none.csv")
    (tmp_path / "pairs.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"no list of pairs in UTF-8.*\.bin"):
        load(tmp_path / "pairs.csv")
    (tmp_path / "pairs.csv").write_text(CSV)
    with pytest.raises(UserError, match="correct --pairs-root"):
        load(tmp_path / "pairs.csv", tmp_path / "none")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(UserError, match="drop the flag"):
        load(tmp_path / "a.bin", tmp_path)


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
