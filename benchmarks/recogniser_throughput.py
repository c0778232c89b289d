"""Images a second of every backbone: embedding, and training as `train.py recognizer` does it.

usage: python -m benchmarks.recogniser_throughput [--batch 8] [--repeats 3] [--names ir50 vit_s8] [--out FILE.json]
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax.config import Dtype, RecognizerConfig, SplitConfig
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.splits import make_split
from advcloak_jax.files import write_json
from advcloak_jax.jobs import recognizer
from advcloak_jax.jobs.inputs import build_recognizer
from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.recognizer import embed
from advcloak_jax.training.runs import code_version

IDENTITIES = 16


def noise_faces(batch: int, size: int) -> FaceSet:
    """Random pictures of a few identities: throughput does not depend on what is on them."""
    each = max(4, -(-batch // 8))
    images = np.random.default_rng(0).integers(0, 256, (IDENTITIES * each, size, size, 3), np.uint8)
    identity = np.repeat(np.arange(IDENTITIES, dtype=np.int32), each)
    return FaceSet(images, identity, tuple(f"noise/{i:02d}" for i in range(IDENTITIES)))


def spread(seconds: list[float], images: int) -> dict[str, float]:
    """Median, slowest and fastest rate in images per second."""
    rates = sorted(images / one for one in seconds)
    return {"median": statistics.median(rates), "low": rates[0], "high": rates[-1]}


def measure(name: str, batch: int, repeats: int, dtype: Dtype) -> dict[str, Any]:
    """Compile seconds and rates of one backbone."""
    config = RecognizerConfig(
        architecture=name,
        batch=batch,
        steps=repeats + 1,
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
    for step in range(repeats + 1):
        began = time.perf_counter()
        state, metrics = job.advance(state, step, 1)
        jax.block_until_ready((state, metrics))
        training.append(time.perf_counter() - began)

    module = build_recognizer(config, dtype=dtype, axis_name=None)
    variables = {"params": state.params["backbone"], "batch_stats": state.batch_stats}
    pictures = jnp.asarray(faces.images[:batch], jnp.float32) / 255
    program = jax.jit(lambda variables, pictures: embed(module, variables, pictures)).lower(variables, pictures)
    compiled = program.compile()
    embedding = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(compiled(variables, pictures))
        embedding.append(time.perf_counter() - began)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "gflop_per_image": (compiled.cost_analysis() or {}).get("flops", float("nan")) / batch / 1e9,
        "first_training_step_seconds": training[0],
        "training_images_per_second": spread(training[1:], batch),
        "embedding_images_per_second": spread(embedding[1:], batch),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="images per step (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps after the first (default %(default)s)")
    parser.add_argument("--names", nargs="*", default=zoo.names(), help="backbones (default: all)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="default %(default)s")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    device = jax.devices()[0]
    results: dict[str, Any] = {}
    print(f"{'backbone':16s} {'parameters':>11s} {'GFLOP':>7s} {'embed/s':>9s} {'train/s':>9s} {'first step':>11s}")
    for name in options.names:
        one = measure(name, options.batch, options.repeats, options.dtype)
        results[name] = one
        embedding, training = (one[f"{kind}_images_per_second"]["median"] for kind in ("embedding", "training"))
        first = one["first_training_step_seconds"]
        print(
            f"{name:16s} {one['parameters']:11,d} {one['gflop_per_image']:7.2f} {embedding:9.2f} {training:9.2f} "
            f"{first:9.1f} s",
            flush=True,
        )
    if options.out:
        cores = f"{platform.machine()}, {os.cpu_count()} cores"
        facts = {"device": f"{device.platform} {device.device_kind}", "host": cores, "code": code_version()}
        settings = {"batch": options.batch, "dtype": options.dtype, "image_size": 112, "repeats": options.repeats}
        write_json(options.out, facts | {"settings": settings, "backbones": results})


if __name__ == "__main__":
    main()
