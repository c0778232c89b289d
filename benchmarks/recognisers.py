"""Images a second of every backbone: embedding, and training as `train.py recognizer` does it."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax.config import Dtype, RecognizerConfig, SplitConfig
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.splits import make_split
from advcloak_jax.errors import UserError
from advcloak_jax.jobs import recognizer
from advcloak_jax.jobs.inputs import build_recognizer
from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.recognizer import embed
from advcloak_jax.training import flops
from advcloak_jax.training.pieces import Pieces
from advcloak_jax.training.runs import code_version
from benchmarks import hardware, report, timing

IDENTITIES = 16
WARM_UP = 6
"""Training steps before those that are timed: the first compiles, and memory may grow in those behind it."""


def noise_faces(batch: int, size: int) -> FaceSet:
    """Random pictures of a few identities: throughput does not depend on what is on them."""
    each = max(4, -(-batch // 8))
    images = np.random.default_rng(0).integers(0, 256, (IDENTITIES * each, size, size, 3), np.uint8)
    identity = np.repeat(np.arange(IDENTITIES, dtype=np.int32), each)
    return FaceSet(images, identity, tuple(f"noise/{i:02d}" for i in range(IDENTITIES)))


def measure(
    name: str, batch: int, repeats: int, dtype: Dtype, peak: float, *, keeps_memory: bool = True
) -> dict[str, Any]:
    """Compile seconds and rates of one backbone; keeps_memory: as jobs do (`heap`, `pieces`)."""
    config = RecognizerConfig(
        architecture=name,
        batch=batch,
        steps=WARM_UP + repeats,
        dtype=dtype,
        steps_per_dispatch=1,
        devices=1,
        split=SplitConfig(
            protected=1, n_inference=1, n_test=2, generator=1, generator_images=2, validation=1, surrogate=8
        ),
    )
    faces = noise_faces(batch, config.image_size)
    job = recognizer.build(config, faces, make_split(faces, config.split))
    state, training = job.state, []
    with Pieces(on_cpu=job.devices[0].platform == "cpu" and keeps_memory) as pieces:
        for step in range(WARM_UP + repeats):
            began = time.perf_counter()
            state, metrics = job.advance(state, step, 1)
            jax.block_until_ready((state, metrics))
            training.append(time.perf_counter() - began)
            if step == 0:
                pieces.take()
    trained = timing.Timing(training[0], tuple(training[WARM_UP:]))

    module = build_recognizer(config, dtype=dtype, axis_name=None)
    variables = {"params": state.params["backbone"], "batch_stats": state.batch_stats}
    pictures = jnp.asarray(faces.images[:batch], jnp.float32) / 255
    program = jax.jit(lambda variables, pictures: embed(module, variables, pictures)).lower(variables, pictures)
    compiled = program.compile()
    embedded = timing.measure(lambda: compiled(variables, pictures), repeats)
    flop = flops.forward(module, config.image_size)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "gflop_per_image": flop / 1e9,
        "first_training_step_seconds": training[0],
        "training_images_per_second": trained.rates(batch),
        "training_step_seconds": trained.summary(batch)["step_seconds"],
        "embedding_images_per_second": embedded.rates(batch),
        "embedding_mfu": flop * batch / embedded.median / peak,
    }


def earlier(path: Path | None, settings: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """The backbones of an earlier results file, each with its commit; none where there is no such file.

    Raises UserError when they were measured with other settings or on another device.
    """
    if path is None:
        raise UserError("--add needs --out, the file to add to.")
    if not path.exists():
        return {}
    there = json.loads(path.read_text())
    now = {"device": facts["device"], "host": facts["host"], "settings": settings}
    if differing := [name for name, value in now.items() if there.get(name) != value]:
        raise UserError(f"{path} has other {differing[0]} ({there.get(differing[0])}); use another --out.")
    return {name: {"commit": there["code"]["commit"]} | one for name, one in there["backbones"].items()}


COLUMNS = {
    "backbone": "backbone",
    "way": "way",
    "parameters": "parameters:,d",
    "GFLOP": "gflop_per_image:.2f",
    "embed/s": "embedding_images_per_second.median:.2f",
    "MFU": "embedding_mfu:.2f",
    "train/s": "training_images_per_second.median:.2f",
    "low": "training_images_per_second.low:.2f",
    "high": "training_images_per_second.high:.2f",
    "first step s": "first_training_step_seconds:.1f",
    "ours is": "ours_is_faster.median:.2f",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--batch", type=int, default=8, help="images per step (default %(default)s)")
    parser.add_argument("--names", nargs="*", default=zoo.names(), help="backbones (default: all)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="default %(default)s")
    peers = "backbones of arcface_torch that PyTorch trains too: iresnet18 ... iresnet200 (default: none)"
    parser.add_argument("--peers", nargs="*", default=[], help=peers)
    add = "keep the other backbones of an --out that there is, measured with the same settings on the same device"
    parser.add_argument("--add", action="store_true", help=add)


def run(options: argparse.Namespace) -> report.Outcome:
    """Every backbone."""
    if options.quick:
        options.names, options.batch, options.repeats = ["mobilefacenet"], 2, 1
    if options.peers:
        from benchmarks.peers import device

        device.share_memory()
    settings = {"batch": options.batch, "dtype": options.dtype, "image_size": 112, "repeats": options.repeats}
    before = earlier(options.out, settings, report.facts()) if options.add else {}
    peak = hardware.matrix_rate(options.dtype, quick=options.quick)
    found = before | {
        name: measure(
            name,
            options.batch,
            options.repeats,
            options.dtype,
            hardware.mfu_base(peak),
            keeps_memory=not options.give_back,
        )
        | {"commit": code_version()["commit"]}
        for name in options.names
    }
    rows = [{"backbone": name, "way": "ours"} | one for name, one in found.items()]
    figures: dict[str, Any] = {"matrix_rate": peak, "backbones": found}
    if options.peers:
        from benchmarks.peers.recognisers import compare

        figures["peers"] = [
            row
            for name in options.peers
            for row in compare(name, options.batch, options.repeats, keeps_memory=not options.give_back)
        ]
        rows += figures["peers"]
    return report.Outcome(settings, figures, report.table(rows, COLUMNS))
