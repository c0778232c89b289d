"""A run that another process writes is left alone; a disk without locks is told."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from advcloak_jax.errors import UserError
from advcloak_jax.training import lock

fcntl = pytest.importorskip("fcntl", reason="Windows has no such locks")

HOLDER = """
import sys, time
from pathlib import Path
from advcloak_jax.training import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_held_until_the_process_ends_however_that_ends(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="is in use by another process"), lock.held(tmp_path):
        pytest.fail("held twice")
    holder.kill()
    holder.wait()
    for _ in range(2):
        with lock.held(tmp_path):
            pass


def test_a_disk_that_cannot_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with lock.held(tmp_path):
        pass
    assert "cannot be locked" in caplog.text
