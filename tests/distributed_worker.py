"""What test_distributed.py runs as processes: `python distributed_worker.py WHAT FOLDER COORDINATOR PROCESSES ID`."""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advcloak_jax import commands, process
from advcloak_jax.config import ClusterConfig, ImageConfig
from advcloak_jax.training import distributed, parallel, placement
from advcloak_jax.training.feed import ResidentFeed
from advcloak_jax.training.loop import Job
from advcloak_jax.training.loop import train as run_loop
from advcloak_jax.training.runs import Run, start_run
from advcloak_jax.training.steps import DEVICES

FACES = [
    *("--data", "synthetic:24x6", "--image-size", "32", "--split.protected", "3", "--split.n-inference", "2"),
    *("--split.n-test", "2", "--split.generator", "6", "--split.generator-images", "4", "--split.validation", "3"),
    *("--split.surrogate", "4", "--split.target", "4"),
]
RHYTHM = ["--steps", "3", "--steps-per-dispatch", "1", "--log-every", "1", "--checkpoint-every", "1", "--keep", "3"]
BACKBONE = [
    *("--architecture", "ir18", "--width", "0.125", "--embedding-size", "16"),
    *("--batch", "8", "--dropout", "0.3"),
]
RATE = ["--learning-rate", "1e-6"]
"""Steps so small that none carries on the rounding of those before: what is compared is the gradients' rounding."""
RECOGNIZER = [*FACES, *RHYTHM, *BACKBONE, *RATE, "--momentum", "0"]
ADAM = [*RATE, "--beta1", "0", "--beta2", "0"]
"""The optimisers' states are the gradients of the last step alone."""
NETWORKS = ["--generator-width", "4", "--discriminator-width", "4", "--batch", "4", *ADAM]
TRAINING = {
    "recognizer": ["recognizer", *RECOGNIZER, "--classifier", "sharded"],
    "image": ["image", "--surrogate", "recognizer", *NETWORKS, *RHYTHM],
    "person": [
        *("person", "--generator", "image", "--persons", "4", "--warmup-epochs", "1"),
        *(*ADAM, *RHYTHM),
    ],
    "universal": [
        *("universal", "--surrogate", "recognizer", "--generator-width", "4", "--batch", "4"),
        *(*ADAM, *RHYTHM),
    ],
    "parts": ["recognizer", *RECOGNIZER, "--accumulate", "2"],
}
SPREAD = {
    1: {
        "recognizer": ["pmap"],
        "image": ["shard_map"],
        "person": ["pmap"],
        "universal": ["shard_map"],
        "parts": ["pmap"],
    },
    2: {
        "recognizer": ["shard_map"],
        "image": ["pmap", "--feed", "sharded"],
        "person": ["shard_map"],
        "universal": ["pmap"],
        "parts": ["shard_map"],
    },
}
"""How several processes map each job, by their number of devices; one process always uses pmap."""
EVALUATION = [
    [
        *("table", "--cloaks", "image", "person", "universal", "--targets", "python:distributed_worker:look"),
        *("--out", "table", "--distractors", "synthetic:60x6", "--bootstrap", "100"),
    ],
    ["verify", "--targets", "recognizer", "--out", "verify"],
]
STEPS = 40


def look(images: np.ndarray) -> np.ndarray:
    """A black box: the mean colours of the parts of faces [B, H, W, 3]."""
    size = images.shape[1] // 4
    parts = images.reshape(len(images), 4, size, 4, size, 3).mean((2, 4)) - 127.5
    return parts.reshape(len(images), -1).astype(np.float32)


def jobs() -> None:
    """Every job on real networks, made very small; the evaluation embeds more than one block of faces."""
    for name, arguments in TRAINING.items():
        spread = SPREAD[jax.local_device_count()][name] if distributed.active() else ["pmap"]
        commands.train([*arguments, "--run", name, "--parallel", *spread])
    for arguments in EVALUATION:
        commands.evaluate(arguments)


def loop(folder: Path, kind: str, count: int) -> None:
    """A job of a few numbers whose every step meets the other processes and takes a while.

    count: how many of its devices each process uses; 0: all.
    """
    devices = placement.pick_devices(count, 4, "--batch")

    def step(state: Any, resident: jax.Array, chunk: dict[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
        total = lax.psum(chunk["x"].sum(), DEVICES)
        new = {"step": state["step"] + 1, "sum": state["sum"] * resident + total}
        return new, {"loss": new["sum"][None]}

    mapped = parallel.parallelise(step, devices, kind)
    resident = placement.reside(jnp.float32(0.75), devices, kind)

    def advance(state: Any, first: int, count: int) -> Any:
        time.sleep(0.05)
        # Whole numbers add up the same in any order.
        x = np.arange(first, first + 4, dtype=np.float32)[None]
        return mapped(state, resident, placement.own_part({"x": x}))

    config = ImageConfig(run=str(folder), steps_per_dispatch=1, log_every=2, checkpoint_every=10, resume=True)
    run = start_run("image", config) if distributed.writes() else Run(folder, "image", config)
    distributed.barrier("begin")
    job = Job(
        steps=STEPS,
        images_per_step=4,
        state=placement.replicate({"step": jnp.int32(0), "sum": jnp.float32(0)}, devices),
        advance=advance,
        validate=lambda state: {"value": float(state["sum"])},
        rank=lambda validation: validation["value"],
        picture=None,
        columns=("loss", "value"),
        feed=ResidentFeed({}, lambda first, count: np.zeros((count, 4), np.int32), devices, kind),
        flops=1e6,
        devices=devices,
    )
    run_loop(run, job, sample=lambda step, picture: None)


def main(arguments: Any) -> None:
    what, folder, coordinator, processes, number = arguments
    config = ClusterConfig(
        coordinator=coordinator, processes=int(processes), process_id=int(number), initialization_timeout=60
    )
    with distributed.joined(config if int(processes) > 1 else ClusterConfig()):
        if what == "jobs":
            jobs()
        else:
            kind, _, count = what.partition("/")
            loop(Path(folder), kind, int(count or 0))


if __name__ == "__main__":
    process.run_main(main)
