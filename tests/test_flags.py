"""The page of flags is what the programs take, and the guide names every flag of a cluster."""

import dataclasses
import re
from pathlib import Path

import pytest

from advcloak_jax.config import SplitConfig, TrainConfig, flag
from advcloak_jax.jobs import flags
from advcloak_jax.training.runs import JOBS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "flags.md").read_text()
GUIDE = (ROOT / "docs" / "cluster.md").read_text()


def test_the_page_is_up_to_date() -> None:
    """Printed by `python -m advcloak_jax.jobs.flags > docs/flags.md`."""
    assert flags.markdown() + "\n" == PAGE


@pytest.mark.parametrize("job", JOBS)
def test_every_flag_of_every_training_job_is_there(job: str) -> None:
    own = PAGE.split(f"## `train.py {job}`")[1].split("\n## ")[0]
    shared = PAGE.split("## Every training job")[1].split("\n## `train.py")[0]
    for field in dataclasses.fields(JOBS[job]):
        if field.name != "split":
            (row,) = re.findall(rf"^\| `{flag(field.name)}` .*$", own, re.MULTILINE) or re.findall(
                rf"^\| `{flag(field.name)}` .*$", shared, re.MULTILINE
            )
            assert len(row.split("|")[3].split()) >= 2
    for part in dataclasses.fields(SplitConfig):
        assert f"| `--split.{flag(part.name)[2:]}` |" in shared


def test_the_guide_names_no_flag_that_is_not() -> None:
    known = set(re.findall(r"`(--[a-z0-9.-]+)`", PAGE)) | {"--help", "--array", "--logdir", "--no-deps"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*", GUIDE)) <= known


STARTS = "config print_config preset sweep sweep_index sweep_list resume coordinator processes process_id distributed"
RUNNING = "cache devices parallel dtype accumulate remat feed log_every checkpoint_every keep on_nan profile wandb"


@pytest.mark.parametrize("name", [*STARTS.split(), *RUNNING.split()])
def test_the_guide_tells_what_a_cluster_needs(name: str) -> None:
    assert name in {field.name for field in dataclasses.fields(TrainConfig)}
    assert flag(name) in GUIDE
