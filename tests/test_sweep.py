"""A sweep: every combination once, in its own folder, picked by a number that is there."""

import itertools
from typing import Any

import pytest

from advcloak_jax import cli, sweep
from advcloak_jax.config import PersonConfig
from advcloak_jax.errors import UserError
from advcloak_jax.training.runs import JOBS

SWEEP = ("learning_rate=1e-8,2e-8", "seed=0,1,2", "split.protected=5")


def config(*parts: str, **fields: Any) -> PersonConfig:
    return PersonConfig(run="runs/x", sweep=parts or SWEEP, **fields)


def test_every_combination_is_trained_once() -> None:
    found = [sweep.pick(config(), {"SLURM_ARRAY_TASK_ID": str(number)}) for number in range(6)]
    assert [(one.learning_rate, one.seed) for one in found] == list(itertools.product((1e-8, 2e-8), (0, 1, 2)))
    assert {one.split.protected for one in found} == {5}
    assert {one.split.generator for one in found} == {3000}  # the rest of the split as it was
    assert found[4].run == "runs/x/learning_rate=2e-8,seed=1,split.protected=5"
    assert len({one.run for one in found}) == 6
    assert all(one.sweep == () for one in found)


def test_the_flag_goes_before_the_array_task() -> None:
    assert sweep.pick(config(sweep_index=2), {"SLURM_ARRAY_TASK_ID": "1"}).seed == 2


def test_the_listing_has_what_is_picked() -> None:
    lines = sweep.listing(config()).splitlines()
    for number, line in enumerate(lines):
        assert line.split() == [str(number), sweep.pick(config(sweep_index=number), {}).run]
    assert len(lines) == 6


def test_values_that_are_paths_make_one_folder() -> None:
    found = sweep.pick(config("surrogate=runs/a,runs/b"), {"SLURM_ARRAY_TASK_ID": "1"})
    assert (found.surrogate, found.run) == ("runs/b", "runs/x/surrogate=runs_b")


@pytest.mark.parametrize(
    ("parts", "environment", "said"),
    [
        (SWEEP, {}, r"6 combinations.*--sweep-index.*--array=0-5"),
        (SWEEP, {"SLURM_ARRAY_TASK_ID": "6"}, r"SLURM_ARRAY_TASK_ID 6 is the number of no combination.*0 to 5"),
        (SWEEP, {"SLURM_ARRAY_TASK_ID": "x"}, r"'x', which is no number"),
        (("learning_rate",), {}, r"--sweep learning_rate must be NAME=VALUE"),
        (("learning_rate=1,,2",), {}, r"must be NAME=VALUE"),
        (("seed=1", "seed=2"), {}, r"names seed twice"),
        (("seed=1,1",), {}, r"two combinations whose folder would be seed=1"),
        (("surrogate=a/b,a_b",), {}, r"two combinations"),
        (("run=a,b",), {}, r"no setting that runs can differ in"),
        (("lr=1,2",), {"SLURM_ARRAY_TASK_ID": "0"}, r"--sweep has an unknown setting 'lr'.*'learning_rate'"),
        (("seed=a,b",), {"SLURM_ARRAY_TASK_ID": "0"}, r"--sweep: seed is 'a'; it must be of type int"),
        (("split.protectd=1",), {"SLURM_ARRAY_TASK_ID": "0"}, r"unknown setting 'protectd'.*'protected'"),
        (("beta1=2",), {"SLURM_ARRAY_TASK_ID": "0"}, r"--sweep: --beta1 must be in"),
    ],
)
def test_a_mistake_is_told(parts: tuple[str, ...], environment: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        sweep.pick(config(*parts), environment)


def test_on_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["person", "--run", "runs/x", "--sweep", "learning-rate=1e-8,2e-8", "seed=0,1"]
    with pytest.raises(SystemExit) as stop:
        cli.parse("train.py", JOBS, [*flags, "--sweep-list"])
    assert stop.value.code == 0
    assert "3  runs/x/learning_rate=2e-8,seed=1" in capsys.readouterr().out
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    _, picked = cli.parse("train.py", JOBS, flags)
    assert (picked.learning_rate, picked.seed) == (2e-8, 1)
    assert picked.cache == "runs/x/cache"  # one for the whole sweep
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    with pytest.raises(UserError, match="--sweep-index"):
        cli.parse("train.py", JOBS, flags)
    with pytest.raises(UserError, match="belong to --sweep"):
        cli.parse("train.py", JOBS, ["person", "--sweep-index", "0"])
