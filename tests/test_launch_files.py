"""The launch files, run with stand-ins for the cluster's own programs, and against JAX's own detection."""

import itertools
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jax._src.clusters.slurm_cluster import SlurmCluster

CLUSTER = Path(__file__).resolve().parents[1] / "cluster"


def stand_in(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(program: str, folder: Path, *arguments: str, **environment: str) -> int:
    """Exit status; the stand-ins in `folder` come first."""
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(CLUSTER / program), *arguments], env={**os.environ, "PATH": path, **environment}, cwd=folder
    ).returncode


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (2, False), (75, True), (134, True), (143, True)])
def test_slurm_starts_again_what_can_go_on(tmp_path: Path, status: int, requeued: bool) -> None:
    stand_in(tmp_path, "srun", f'printf "%s\\n" "$@" > srun.txt; exit {status}')
    stand_in(tmp_path, "scontrol", 'echo "$@" > scontrol.txt')
    found = run("slurm.sbatch", tmp_path, "train.py", "image", "--run", "runs/a b", SLURM_JOB_ID="17")
    assert found == status
    arguments = (tmp_path / "srun.txt").read_text().splitlines()
    assert arguments[-8:] == [
        ".venv/bin/python", "train.py", "image", "--run", "runs/a b", "--distributed", "auto", "--resume"
    ]  # fmt: skip
    assert (tmp_path / "scontrol.txt").exists() == requeued
    if requeued:
        assert (tmp_path / "scontrol.txt").read_text() == "requeue 17\n"


def test_slurm_runs_an_evaluation_without_resuming(tmp_path: Path) -> None:
    stand_in(tmp_path, "srun", 'printf "%s\\n" "$@" > srun.txt')
    assert run("slurm.sbatch", tmp_path, "evaluate.py", "table", SLURM_JOB_ID="17") == 0
    assert (tmp_path / "srun.txt").read_text().splitlines()[-4:] == ["evaluate.py", "table", "--distributed", "auto"]


def test_slurm_gives_up_at_last(tmp_path: Path) -> None:
    stand_in(tmp_path, "srun", "exit 75")
    stand_in(tmp_path, "scontrol", "touch scontrol.txt")
    assert run("slurm.sbatch", tmp_path, "train.py", "image", SLURM_JOB_ID="17", SLURM_RESTART_COUNT="20") == 75
    assert not (tmp_path / "scontrol.txt").exists()


def test_jax_reads_what_srun_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two tasks on the second of two nodes."""
    for name, value in {
        "SLURM_JOB_ID": "4096",
        "SLURM_STEP_NODELIST": "node[07-08]",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert SlurmCluster.is_env_present()
    assert SlurmCluster.get_coordinator_address(None, None) == "node07:61440"
    assert (SlurmCluster.get_process_count(), SlurmCluster.get_process_id()) == (4, 3)
    assert SlurmCluster.get_local_process_id() == 1  # the one device that this process sees


def test_jobset_is_consistent() -> None:
    made: dict[str, Any] = yaml.safe_load((CLUSTER / "jobset.yaml").read_text())
    (job,) = made["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    words = container["command"][-1].split()
    flags = dict(itertools.pairwise(words))
    assert spec["completionMode"] == "Indexed"
    assert int(flags["--processes"]) == spec["parallelism"] == spec["completions"]
    # Kubernetes names the first pod so.
    host = f"{made['metadata']['name']}-{job['name']}-0-0.{made['metadata']['name']}"
    assert flags["--coordinator"] == f"{host}:12345"
    assert flags["--process-id"] == '"$JOB_COMPLETION_INDEX"'
    assert "--resume" in words
    assert words[0] == "exec"


def test_a_tpu_gets_the_command_as_it_was_written(tmp_path: Path) -> None:
    stand_in(tmp_path, "gcloud", 'for last; do :; done; printf "%s" "$last" > command.txt; echo "$@" > all.txt')
    where = {"TPU": "pod", "ZONE": "z", "FOLDER": str(tmp_path / "a b")}
    assert run("tpu.sh", tmp_path, "train.py", "image", "--run", "runs/x y", **where) == 0
    assert "ssh pod --zone z --worker=all --command" in (tmp_path / "all.txt").read_text()
    python = tmp_path / "a b" / ".venv" / "bin"
    python.mkdir(parents=True)
    stand_in(python, "python", 'printf "%s\\n" "$@" > got.txt')
    subprocess.run(["bash", "-c", (tmp_path / "command.txt").read_text()], check=True)
    assert (tmp_path / "a b" / "got.txt").read_text().splitlines() == [
        "train.py", "image", "--run", "runs/x y", "--distributed", "auto"
    ]  # fmt: skip


def test_a_tpu_needs_to_be_named(tmp_path: Path) -> None:
    assert run("tpu.sh", tmp_path, "train.py", "image") != 0
