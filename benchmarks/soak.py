"""Kill training again and again, at random, and see whether it ends with the same bytes as if nothing had happened.

usage: python -m benchmarks.soak [--kills 12] [--seed 0] [--folder FOLDER] [--out benchmarks/results/soak.json]

Each stage of the generator is trained twice, small: undisturbed, and with so many kills. A kill is SIGKILL or SIGTERM,
some at a random moment soon after the start, while the program still loads or compiles, most after a few more steps;
then the run is started again with --resume.
"""

import argparse
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from advcloak_jax.files import write_json
from advcloak_jax.training.checkpoint import read_checkpoint
from advcloak_jax.training.metrics import read_metrics
from advcloak_jax.training.runs import code_version

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
STEPS = 100
RHYTHM = ["--steps", str(STEPS), "--steps-per-dispatch", "1", "--log-every", "1", "--checkpoint-every", "5"]
FACES = [
    *("--data", "synthetic:24x6", "--image-size", "32", "--split.protected", "3", "--split.n-inference", "2"),
    *("--split.n-test", "2", "--split.generator", "6", "--split.generator-images", "4", "--split.validation", "3"),
    *("--split.surrogate", "6", "--split.target", "0"),
]
BACKBONE = ["--architecture", "mobilefacenet", "--width", "0.125", "--embedding-size", "16", "--batch", "8"]
NETWORKS = ["--generator-width", "4", "--discriminator-width", "4", "--batch", "4", "--learning-rate", "1e-3"]
SURROGATE = ["recognizer", *FACES, *BACKBONE, "--steps", "10", "--steps-per-dispatch", "1", "--log-every", "5"]
STAGES = {
    "image": ["image", "--surrogate", "surrogate", *NETWORKS, *RHYTHM],
    "person": ["person", "--generator", "image", "--persons", "2", "--warmup-epochs", "5", *RHYTHM],
}
EARLY_SHARE = 0.2
"""Of the kills: those that do not wait for a step."""
LONGEST_EARLY = 10.0
"""Seconds after the start within which an early kill comes."""
MOST_STEPS = 8
"""A kill that is not early comes within so many further steps."""


def start(folder: Path, run: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    """The stage, from its last checkpoint where there is one."""
    with (folder / f"{run}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(TRAIN), *arguments, "--run", run, "--cache", "cache", "--resume"],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )


def run_through(folder: Path, run: str, arguments: list[str]) -> None:
    """Undisturbed, to the end."""
    if start(folder, run, arguments).wait() != 0:
        raise SystemExit(f"{run} failed: {(folder / f'{run}.log').read_text()[-2000:]}")


def kill_once(folder: Path, run: str, arguments: list[str], dice: random.Random) -> dict[str, Any]:
    """Start, kill, and wait for the end: what was done."""
    number = dice.choice((signal.SIGKILL, signal.SIGTERM))
    early = dice.random() < EARLY_SHARE
    wait, further = dice.uniform(0, LONGEST_EARLY), dice.randint(1, MOST_STEPS)
    before = reached(folder / run)
    process = start(folder, run, arguments)
    began = time.monotonic()
    while process.poll() is None:
        if (time.monotonic() - began >= wait) if early else (reached(folder / run) >= before + further):
            break
        time.sleep(0.02)
    if process.poll() is not None:
        raise SystemExit(f"{run} ended by itself: {(folder / f'{run}.log').read_text()[-2000:]}")
    at = reached(folder / run)
    asked = time.monotonic()
    process.send_signal(number)
    status = process.wait()
    return {
        "signal": number.name,
        "early": early,
        "step": at,
        "status": status,
        "seconds_to_end": round(time.monotonic() - asked, 2),
    }


def reached(run: Path) -> int:
    """Last step with metrics."""
    return max((int(row["step"]) for row in read_metrics(run)), default=0) if (run / "metrics.csv").exists() else 0


def differences(first: Path, second: Path) -> list[str]:
    """Arrays of the last checkpoints that are not the same bytes, and whether the metrics differ."""
    (step, one), (other_step, other) = (read_checkpoint(run / "checkpoints", best=False) for run in (first, second))
    if (step, other_step) != (STEPS, STEPS):
        return [f"steps {step} and {other_step}"]
    leaves = zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True)
    found = [
        jax.tree_util.keystr(path) for (path, a), b in leaves if np.asarray(a).tobytes() != np.asarray(b).tobytes()
    ]
    losses = [[{k: row[k] for k in row if k in ("step", "generator", "adversarial")} for row in read_metrics(run)]
              for run in (first, second)]  # fmt: skip
    return found + ([] if losses[0] == losses[1] else ["metrics.csv"])


def soak(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Both stages: what was done to each, and what came out."""
    dice = random.Random(seed)
    run_through(folder, "surrogate", SURROGATE)
    stages = {}
    for run, arguments in STAGES.items():
        began = time.monotonic()
        run_through(folder, run, arguments)
        undisturbed = time.monotonic() - began
        done = [kill_once(folder, f"{run}-killed", arguments, dice) for _ in range(kills)]
        run_through(folder, f"{run}-killed", arguments)
        stages[run] = {
            "steps": STEPS,
            "seconds_undisturbed": round(undisturbed, 1),
            "kills": done,
            "arrays": len(jax.tree.leaves(read_checkpoint(folder / run / "checkpoints", best=False)[1])),
            "differing": differences(folder / run, folder / f"{run}-killed"),
        }
        print(f"{run}: {kills} kills, differing: {stages[run]['differing'] or 'nothing'}", flush=True)
    return stages


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12, help="of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="", help="where the runs go (default: a temporary folder)")
    parser.add_argument("--out", default="benchmarks/results/soak.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        stages = soak(folder, given.kills, given.seed)
    result = {
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "code": code_version(),
        "seed": given.seed,
        "kills": given.kills * len(stages),
        "same_bytes": not any(stage["differing"] for stage in stages.values()),
        "stages": stages,
    }
    write_json(Path(given.out), result)
    if not result["same_bytes"]:
        raise SystemExit("the killed runs differ from the undisturbed ones")


if __name__ == "__main__":
    main()
