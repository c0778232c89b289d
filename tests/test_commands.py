"""Programs as their users start them: nothing that takes seconds to import comes before the flags are read."""

import select
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {
    "train": ("train.py", ["person", "--help"]),
    "evaluate": ("evaluate.py", ["table", "--help"]),
    "protect": ("protect.py", ["--help"]),
    "export": ("advcloak_jax/export.py", ["--help"]),
    "prepare": ("advcloak_jax/data/prepare.py", ["--help"]),
    "import_weights": ("advcloak_jax/recognizers/import_weights.py", ["--help"]),
    "a mistyped flag": ("train.py", ["image", "--lambda-norn", "1"]),
}


def started(program: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, program, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(select, "poll"), reason="pipes without a reader are told otherwise there")
@pytest.mark.parametrize("arguments", [["--help"], ["image", "--help"]])
def test_output_that_nobody_reads_is_no_error(arguments: list[str]) -> None:
    """As behind `| head`: what is printed at once, and what waits in the buffer until the end."""
    process = started("train.py", *arguments)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait()) == ("", 141)


@pytest.mark.skipif(not hasattr(select, "poll"), reason="pipes without a reader are told otherwise there")
def test_progress_that_nobody_reads_ends_the_program_as_quietly() -> None:
    script = (
        "import sys\n"
        "from advcloak_jax import process\n"
        "def main(_):\n    while True: print('step', file=sys.stderr)\n"
        "process.run_main(main)\n"
    )
    process = started("-c", script)
    assert process.stderr is not None
    process.stderr.close()
    assert process.stdout is not None
    assert (process.stdout.read(), process.wait(timeout=60)) == ("", 141)


@pytest.mark.skipif(sys.platform == "win32", reason="closes streams as a POSIX shell does")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_shell_has_closed(closed: str) -> None:
    script = f'"$0" train.py image --help {closed}'
    assert subprocess.run(["sh", "-c", script, sys.executable], cwd=ROOT, capture_output=True).returncode == 0


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from advcloak_jax import process\n"
        "def main(_):\n"
        "    with open(sys.argv[1], 'w') as file: os.write(1, b'noise of a library'); file.write('a result')\n"
        "process.run_main(main)\n"
    )
    command = ["sh", "-c", '"$0" -c "$1" "$2" >&-', sys.executable, script, str(tmp_path / "result")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "result").read_text() == "a result"


def test_another_broken_pipe_is_told() -> None:
    script = (
        "from advcloak_jax import process\ndef fail(_): raise BrokenPipeError('of a socket')\nprocess.run_main(fail)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("BrokenPipeError: of a socket\n")


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_and_mistyped_flags_wait_for_no_library(name: str) -> None:
    program, arguments = PROGRAMS[name]
    script = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('imported:', *sorted({name.split('.')[0] for name in sys.modules})))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, program, *arguments], cwd=ROOT, capture_output=True, text=True)
    said, _, imported = done.stdout.rpartition("imported: ")
    assert "tyro" in imported.split()
    assert not {"jax", "jaxlib", "numpy", "scipy", "flax", "orbax", "torch"} & set(imported.split())
    if name == "a mistyped flag":
        assert (done.returncode, said) == (2, "")
        assert done.stderr.startswith("error: Unrecognized options: --lambda-norn")
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert "usage: " in said
