"""Pair lists: what is read, and that damage is told in one sentence."""

from pathlib import Path

import numpy as np
import pytest
from pair_files import expected, load, people, shown

from advcloak_jax.errors import UserError

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
