"""Compiled programs are dropped before their memory mappings are too many, and not before."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from advcloak_jax import commands, mappings
from advcloak_jax.jobs import measure


@pytest.fixture
def granted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Sets how many mappings the system grants."""

    def grant(number: int) -> None:
        file = tmp_path / "max_map_count"
        file.write_text(f"{number}\n")
        monkeypatch.setattr(mappings, "GRANTED", file)

    return grant


told = pytest.mark.skipif(not mappings.HELD.exists(), reason="this system does not tell its mappings")


@told
def test_programs_are_dropped_above_the_share(granted: Any) -> None:
    program = jax.jit(lambda x: x * 2 + 1)
    assert program(jnp.float32(3)) == 7
    held = len(mappings.HELD.read_bytes().splitlines())
    granted(4 * held)
    assert not mappings.spare()
    assert program._cache_size() == 1
    assert mappings.spare(share=0.1)
    assert program._cache_size() == 0
    assert program(jnp.float32(3)) == 7


@told
def test_dropped_programs_give_their_mappings_back(granted: Any) -> None:
    def held() -> int:
        return len(mappings.HELD.read_bytes().splitlines())

    before = held()
    programs = [jax.jit(lambda x, n=n: jnp.sin(x * n) @ x) for n in range(2, 22)]
    for program in programs:
        program(jnp.ones((8, 8))).block_until_ready()
    full = held()
    assert full > before + 20
    granted(full)
    assert mappings.spare()
    assert held() < full - 20


@pytest.mark.parametrize("missing", ["HELD", "GRANTED"])
def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str) -> None:
    monkeypatch.setattr(mappings, missing, tmp_path / "none")
    assert not mappings.spare(share=0.0)


class EnoughError(Exception):
    """Raised where programs would be dropped, which is to come before anything is compiled."""


def test_every_row_of_a_table_and_every_training_begins_with_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def spare() -> None:
        raise EnoughError

    monkeypatch.setattr(mappings, "spare", spare)
    with pytest.raises(EnoughError):
        measure.wear(SimpleNamespace(), SimpleNamespace(), SimpleNamespace(), norm=1.0, seed=0)  # type: ignore[arg-type]
    with pytest.raises(EnoughError):
        commands.train(["recognizer", "--data", "synthetic:4x4", "--run", str(tmp_path / "run"), "--cache", "none"])
