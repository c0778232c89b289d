"""The run folder: when it may be used, and what a resumed run may change."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from advcloak_jax.config import ImageConfig, SplitConfig, TrainConfig, flag
from advcloak_jax.errors import UserError
from advcloak_jax.training import runs


def resumed(config: TrainConfig, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, resume=True, **changes)


@pytest.fixture
def config(tmp_path: Path) -> ImageConfig:
    return ImageConfig(run=str(tmp_path / "run"))


def test_what_is_stored_is_what_was_asked_for(config: ImageConfig) -> None:
    run = runs.start_run("image", config)
    found = runs.read_run(run.folder)
    assert (found.job, found.config, found.finished) == ("image", config, False)
    code = json.loads((run.folder / "config.json").read_text())["code"]
    assert {"advcloak-jax", "commit", "jax", "flax", "optax"} <= set(code)


def test_a_used_folder_needs_resume(config: ImageConfig) -> None:
    runs.start_run("image", config)
    with pytest.raises(UserError, match="--resume"):
        runs.start_run("image", config)
    assert runs.start_run("image", resumed(config)).config == resumed(config)


def test_resume_starts_what_is_not_there(config: ImageConfig) -> None:
    assert runs.start_run("image", resumed(config)).folder.is_dir()


def test_only_harmless_settings_may_change(config: ImageConfig) -> None:
    runs.start_run("image", config)
    for name, value in {
        "devices": 1,
        "parallel": "shard_map",
        "cache": "x",
        "keep": 7,
        "log_every": 10,
        "feed": "streamed",
    }.items():
        runs.start_run("image", resumed(config, **{name: value}))
    changes = {"seed": 1, "learning_rate": 1.0, "steps": 3, "data": ("folder:x",), "split": SplitConfig(protected=3)}
    for name, value in changes.items():
        before = (Path(config.run) / "config.json").read_bytes()
        with pytest.raises(UserError, match=rf"was started with {flag(name)}.*drop the flag"):
            runs.start_run("image", resumed(config, **{name: value}))
        assert (Path(config.run) / "config.json").read_bytes() == before


def test_a_changed_part_of_the_split_is_named_alone(config: ImageConfig) -> None:
    runs.start_run("image", config)
    with pytest.raises(UserError, match=r"was started with --split\.protected 500, now it is 3;"):
        runs.start_run("image", resumed(config, split=SplitConfig(protected=3)))


def test_a_run_of_another_job_is_refused(config: ImageConfig) -> None:
    runs.start_run("image", config)
    with pytest.raises(UserError, match=r"holds a run of `train\.py image`"):
        runs.start_run("recognizer", resumed(config))


def test_a_folder_of_something_else_is_refused(config: ImageConfig) -> None:
    folder = Path(config.run)
    folder.mkdir()
    (folder / "holiday.txt").touch()
    with pytest.raises(UserError, match="not empty and holds no run"):
        runs.start_run("image", resumed(config))
    assert [path.name for path in folder.iterdir()] == ["holiday.txt"]


def test_a_start_killed_while_writing_its_settings_can_be_resumed(config: ImageConfig) -> None:
    folder = Path(config.run)
    folder.mkdir()
    (folder / ".config-abc.json").touch()
    runs.start_run("image", resumed(config))


def test_a_file_in_the_way_is_refused(config: ImageConfig) -> None:
    Path(config.run).touch()
    with pytest.raises(UserError, match="is a file"):
        runs.start_run("image", config)
    inside = dataclasses.replace(config, run=f"{config.run}/inside")
    with pytest.raises(UserError, match=r"--run .*/inside cannot be made: .* is no folder"):
        runs.require_free("image", inside)


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run folder \(it has no config.json\)"):
        runs.read_run(tmp_path)
