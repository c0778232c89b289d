"""An interrupted preparation goes on byte for byte, with what it began with and nothing else."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prepared_sets import SIZE, contents, flip_a_byte, settings, write_people
from rec_files import encoded, smooth

from advcloak_jax import commands
from advcloak_jax.data import manifest, preparing
from advcloak_jax.errors import UserError
from advcloak_jax.jobs import prepare

pytest.importorskip("tensorflow_datasets")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_people(tmp_path)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("moment", ["encode", "describe", "write_manifest", "_write_tfds"])
def test_an_interrupted_preparation_goes_on_and_ends_byte_identical(
    tmp_path: Path, people: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """While a shard is written, while it is summed up, and near the end: what was finished is not made again."""
    whole = contents(prepare.run(settings(people, tmp_path / "a" / "set")))
    where = manifest if moment in ("describe", "write_manifest") else preparing
    real: Callable[..., Any] = getattr(where, moment)
    calls = 0

    def stop_at_the_tenth(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == {"encode": 10, "describe": 3, "write_manifest": 1, "_write_tfds": 1}[moment]:
            raise StoppedError
        return real(*arguments, **named)

    config = settings(people, tmp_path / "b" / "set")
    with monkeypatch.context() as patch:
        patch.setattr(where, moment, stop_at_the_tenth)
        with pytest.raises(StoppedError):
            prepare.run(config)
    assert not (tmp_path / "b" / "set").exists()
    kept = {path: path.stat().st_ino for path in (tmp_path / "b" / "set.partial").glob("*array_record*")}
    assert len(kept) == {"encode": 2, "describe": 2}.get(moment, 6) + (moment == "describe")
    encodings = 0
    real_encode = preparing.encode

    def counted(*arguments: Any) -> Any:
        nonlocal encodings
        encodings += 1
        return real_encode(*arguments)

    monkeypatch.setattr(preparing, "encode", counted)
    out = prepare.run(config)
    assert contents(out) == whole
    assert encodings == {"encode": 13, "describe": 13}.get(moment, 0)
    assert not (tmp_path / "b" / "set.partial").exists()


def test_killed_at_any_time_it_ends_the_same(tmp_path: Path, people: Path) -> None:
    """A real process, killed without warning after its first shard."""
    whole = contents(prepare.run(settings(people, tmp_path / "a" / "set")))
    script = (
        "import os, signal, sys\n"
        "from advcloak_jax.data import preparing\n"
        "from advcloak_jax import commands\n"
        "real, calls = preparing.encode, []\n"
        "def encode(*arguments):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*arguments)\n"
        "preparing.encode = encode\n"
        "commands.prepare(sys.argv[1:])\n"
    )
    arguments = [f"folder:{people}", str(tmp_path / "b" / "set"), "--image-size", str(SIZE), "--shard-images", "4"]
    killed = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "b" / "set.partial").is_dir()
    commands.prepare(arguments)
    assert contents(tmp_path / "b" / "set") == whole


def test_another_start_is_not_mixed_in(tmp_path: Path, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(people, tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_finish", lambda *_: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            prepare.run(config)
    with pytest.raises(UserError, match=r"set\.partial was begun with other settings"):
        prepare.run(settings(people, tmp_path / "set", "raw"))
    (people / "person_0" / "00.jpg").write_bytes(encoded(smooth(99, SIZE)))
    with pytest.raises(UserError, match="its source has changed"):
        prepare.run(config)
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial" / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="is no unfinished set"):
        prepare.run(settings(people, tmp_path / "other"))
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        prepare.run(settings(people, tmp_path / "there"))
    with pytest.raises(UserError, match="give folder:PATH or recordio:PATH"):
        commands.prepare(["synthetic:3x3", str(tmp_path / "x")])


def test_a_damaged_shard_of_an_unfinished_set_is_written_again(
    tmp_path: Path, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(prepare.run(settings(people, tmp_path / "a" / "set")))
    config = settings(people, tmp_path / "b" / "set")
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_finish", lambda *_: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            prepare.run(config)
    shard = sorted((tmp_path / "b" / "set.partial").glob("*array_record*"))[1]
    flip_a_byte(shard)
    assert contents(prepare.run(config)) == whole
