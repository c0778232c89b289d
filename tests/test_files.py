"""Outputs are whole or absent."""

import errno
import os
import stat
from pathlib import Path

import pytest

from advcloak_jax.errors import UserError
from advcloak_jax.files import replacing, require_file, require_folder, require_new_folder, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_nobody_sees_a_half_written_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.png"
    with replacing(path) as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == path.parent
        temporary.write_bytes(b"x")
        assert not path.exists()
    assert names(path.parent) == ["a.png"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {"a": 1})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


def test_text_is_utf_8_and_ends_as_given(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "å\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa5\n"


def test_a_directory_in_the_way_is_an_error_that_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError, match=r"a\.txt"):
        write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == ["a.txt"]


def test_what_can_be_made_is_told_before_the_work(tmp_path: Path) -> None:
    require_folder(tmp_path / "not" / "there" / "yet", "--out")
    require_folder(tmp_path, "--out")
    require_file(tmp_path / "not" / "there" / "a.html", "--report")
    assert names(tmp_path) == []
    (tmp_path / "file").touch()
    require_file(tmp_path / "file", "--report")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place in (tmp_path / "file", tmp_path / "file" / "inside", tmp_path / "link" / "inside"):
        with pytest.raises(UserError, match=r"^--out cannot be made: .*/(file|link) is no folder"):
            require_folder(place, "--out")
    with pytest.raises(UserError, match=r"^--report is a folder"):
        require_file(tmp_path, "--report")
    with pytest.raises(OSError, match="name too long"):
        require_folder(tmp_path / ("x" * 300), "--out")


def test_a_new_folder_is_none_yet_or_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_new_folder(tmp_path / "new" / "out", "--out")
    (tmp_path / "empty").mkdir()
    require_new_folder(tmp_path / "empty", "--out")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "link", tmp_path / "file"):
        with pytest.raises(UserError, match=r"^--out exists already"):
            require_new_folder(place, "--out")
    monkeypatch.setattr("os.path.ismount", lambda path: True)
    with pytest.raises(UserError, match=r"^--out is where another disk is mounted"):
        require_new_folder(tmp_path / "empty", "--out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_permission_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"no permission to write to .*/locked"):
        require_folder(tmp_path / "locked" / "out", "--out")
