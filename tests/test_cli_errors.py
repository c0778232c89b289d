"""Errors of the machine and of the program itself, as the command line tells them."""

import errno
import itertools
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from command_line import Capture, kept_hooks, main, status

from advcloak_jax import process


@pytest.fixture(autouse=True)
def hooks() -> Iterator[None]:
    with kept_hooks():
        yield


def error_after(*chain: BaseException) -> BaseException:
    """The last exception, raised from the one before, and so on."""
    for cause, effect in itertools.pairwise(chain):
        effect.__cause__ = cause
    return chain[-1]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), r"The disk of runs/a is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), r"full"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), r"No permission to use runs/a"),
        (OSError(errno.EROFS, "Read-only file system", "runs/a"), r"No permission to use runs/a"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "file/a"), r"file/a is no path that can be used"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300), r"n{200} is no path that can be used"),
        (ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device"), r"full"),
        (MemoryError("Unable to allocate 6 PiB for an array"), r"not enough memory \(Unable to allocate 6 PiB"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory while allocating 9 bytes.\nmore"),
            r"9 bytes\); lower the batch",
        ),
        (error_after(OSError(errno.ENOSPC, "No space left on device", "x"), RuntimeError("save failed")), r"x is full"),
    ],
)
def test_the_machines_errors_are_one_sentence(
    error: BaseException, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(_: Sequence[str]) -> None:
        raise error

    assert re.search(sentence, main(monkeypatch, capsys, run=fail))


def test_of_warnings_only_our_own_are_told(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def warn(_: Sequence[str]) -> None:
        for name in ("absl", "asyncio", "concurrent.futures", "advcloak_jax.data"):
            logging.getLogger(name).warning("of %s", name)

    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr("sys.argv", ["train.py"])
    process.run_main(warn)
    assert capsys.readouterr().err == "warning: of advcloak_jax.data\n"


def test_a_mistake_of_the_programs_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Sequence[str]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(ZeroDivisionError):
        process.run_main(fail)


@pytest.mark.parametrize("while_compiling", [False, True])
def test_interrupted(while_compiling: bool) -> None:
    """A program that XLA still compiles when the interpreter ends would crash it."""
    compiling = (
        "import jax, threading, time\n"
        "many = lambda x: [x := jax.numpy.sin(x) @ x for _ in range(600)][-1]\n"
        "x = jax.ShapeDtypeStruct((8, 8), 'float32')\n"
        "threading.Thread(target=jax.jit(many).lower(x).compile, daemon=True).start()\n"
        "time.sleep(0.3)\n"
    )
    script = (
        "from advcloak_jax import process\n"
        f"{compiling if while_compiling else ''}"
        "def fail(_): raise KeyboardInterrupt\n"
        "process.run_main(fail)\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "Interrupted (training: --resume continues from the last checkpoint).\n"


def test_a_writing_threads_full_disk_is_left_to_the_main_thread(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def write(number: int) -> None:
        raise OSError(number, "failed")

    def both(_: Sequence[str]) -> None:
        for number in (errno.ENOSPC, errno.EIO):
            thread = threading.Thread(target=write, args=(number,))
            thread.start()
            thread.join()

    monkeypatch.setattr("sys.argv", ["train.py"])
    process.run_main(both)
    assert capsys.readouterr().err.count("Traceback") == 1


class _Raising:
    """An object whose end raises: that nobody can catch, as in a library's own threads."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error


def test_what_a_failed_writer_leaves_behind_is_not_told(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def callbacks(_: Sequence[str]) -> None:
        for said in ("Event loop is closed", "something else"):
            _Raising(RuntimeError(said))

    monkeypatch.setattr("sys.argv", ["train.py"])
    process.run_main(callbacks)
    told = capsys.readouterr().err
    assert "Event loop is closed" not in told
    assert "RuntimeError: something else" in told


def test_after_the_sentence_nothing_more_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def full(_: Sequence[str]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a")

    monkeypatch.setattr("sys.argv", ["train.py"])
    assert status(lambda: process.run_main(full)) == 2
    _Raising(OSError(errno.ENOSPC, "No space left on device"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: The disk of runs/a is full")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_write_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    monkeypatch.chdir(locked)
    assert "No permission" in main(monkeypatch, capsys, "recognizer", "--data", "synthetic:9x2")
