"""What tests of the command line share: its exit status and the one sentence with which it fails."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from advcloak_jax import commands, process

Capture = pytest.CaptureFixture[str]


@contextmanager
def kept_hooks() -> Iterator[None]:
    """Puts back what `run_main` sets for a whole process."""
    before = threading.excepthook, sys.unraisablehook
    yield
    threading.excepthook, sys.unraisablehook = before


def status(call: Callable[[], object]) -> int:
    with pytest.raises(SystemExit) as raised:
        call()
    code = raised.value.code
    assert isinstance(code, int)
    return code


def main(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, *arguments: str, run: Callable[..., None] = commands.train
) -> str:
    """The sentence with which `train.py ARGUMENTS` fails."""
    monkeypatch.setattr("sys.argv", ["train.py", *arguments])
    assert status(lambda: process.run_main(run)) == 2
    *earlier, sentence = capsys.readouterr().err.strip().splitlines()
    assert not any(line.startswith(("error", "Traceback")) for line in earlier)
    assert sentence.startswith("error: ")
    assert sentence.endswith((".", "?"))
    return sentence.removeprefix("error: ")
