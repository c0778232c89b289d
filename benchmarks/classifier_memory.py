"""Memory of recogniser training with many persons on each device, with the classifier replicated and shared.

The figures are XLA's own for the whole training step, compiled for so many simulated devices: the state (updated in
place) and the temporary buffers, on one device. What the classifier costs is the difference to the same step with
384 persons. With --run, steps are also made, on as many devices as there are cores.

usage: python -m benchmarks.classifier_memory [--persons 10572 1000000] [--devices 1 2 8] [--run] [--out FILE.json]
"""

import argparse
import os
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from advcloak_jax.config import RecognizerConfig
from advcloak_jax.files import write_json
from advcloak_jax.jobs import recognizer
from advcloak_jax.jobs.inputs import build_recognizer
from advcloak_jax.training import class_parallel, parallel, placement, state, steps
from advcloak_jax.training.recognizer_step import recognizer_step
from advcloak_jax.training.runs import code_version

MIB = 2**20
FEW_PERSONS = class_parallel.MULTIPLE
"""Persons whose classifier costs next to nothing."""


def measure(config: RecognizerConfig, persons: int, devices: list[jax.Device], run: bool) -> dict[str, Any]:
    """MiB on one device for one step of training with so many persons; with `run`, also the seconds of a step."""
    sharded = config.classifier == "sharded"
    module = build_recognizer(config, dtype=config.dtype, axis_name=steps.DEVICES)
    transformation = recognizer.optimiser(config, 100)
    columns = class_parallel.padded(persons) if sharded else persons

    def initial(key: jax.Array) -> state.RecognizerState:
        return state.init_recognizer(module, persons, config.image_size, transformation, key, columns=columns)

    shapes = jax.eval_shape(initial, jax.random.key(0))
    specs = class_parallel.specs(shapes) if sharded else jax.tree.map(lambda _: P(), shapes)
    step = recognizer_step(
        module, transformation, recognizer.margin(config), sharded_classes=persons if sharded else None
    )

    def gather(resident: jax.Array, item: dict[str, jax.Array], number: jax.Array) -> steps.RecognizerBatch:
        faces = jnp.broadcast_to(resident, (len(item["label"]), *resident.shape))
        return steps.RecognizerBatch(
            faces, item["label"], item["position"], jax.random.fold_in(jax.random.key(0), number)
        )

    scanned = parallel.scan_steps(lambda _: step, gather, unroll=True)
    program = parallel.parallelise(scanned, devices, "shard_map", specs)
    face = jnp.full((config.image_size, config.image_size, 3), 0.5)
    label = np.random.default_rng(0).integers(0, persons, (1, config.batch), np.int32)
    chunk = {"label": label, "position": recognizer.positions(label)}
    placed = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        placement.shardings(specs, devices),
    )
    compiled = program.lower(placed, face, chunk).compile()
    memory = compiled.memory_analysis()
    classifier = persons if not sharded else columns // len(devices)
    found: dict[str, Any] = {
        "persons": persons,
        "devices": len(devices),
        "classifier": config.classifier,
        "class_weights_mib": config.embedding_size * classifier * 4 / MIB,
        "arguments_mib": memory.argument_size_in_bytes / MIB,
        "temporary_mib": memory.temp_size_in_bytes / MIB,
        "all_mib": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / MIB,
    }
    if run:
        if sharded:
            current, _ = recognizer.place(initial, jax.random.key(0), devices)
        else:
            current = placement.replicate(jax.jit(initial)(jax.random.key(0)), devices)
        shards = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(current)]
        found["state_mib"] = sum(shard.nbytes for shard in shards) / MIB
        del shards
        current, _ = compiled(current, face, chunk)
        jax.block_until_ready(current)
        began = time.perf_counter()
        current, metrics = compiled(current, face, chunk)
        found["loss"] = float(jax.block_until_ready(metrics)["loss"][0])
        found["step_seconds"] = time.perf_counter() - began
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, nargs="*", default=[10_572, 1_000_000], help="default %(default)s")
    parser.add_argument("--devices", type=int, nargs="*", default=[1, 2, 8], help="default %(default)s")
    parser.add_argument("--architecture", default="mobilefacenet", help="backbone (default %(default)s)")
    parser.add_argument("--embedding-size", type=int, default=512, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="faces of a step over all devices (default %(default)s)")
    parser.add_argument("--run", action="store_true", help="also make steps, where there are cores enough")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(options.devices))
    rows = []
    columns = {
        "weights": "class_weights_mib",
        "state": "arguments_mib",
        "all": "all_mib",
        "classifier": "for_classifier_mib",
    }
    print("MiB on one device; the last column is what the classifier costs in all.")
    print(f"{'persons':>9s} {'devices':>7s} {'kept':>10s} " + " ".join(f"{name:>10s}" for name in columns))
    for count in options.devices:
        devices = jax.devices()[:count]
        for classifier in ("replicated", "sharded"):
            config = RecognizerConfig(
                architecture=options.architecture,
                embedding_size=options.embedding_size,
                batch=options.batch,
                classifier=classifier,
                steps_per_dispatch=1,
            )
            few = measure(config, FEW_PERSONS, devices, run=False)["all_mib"]
            for persons in options.persons:
                run = options.run and count <= (os.cpu_count() or 1) and (classifier == "sharded" or count == 1)
                one = measure(config, persons, devices, run)
                one["for_classifier_mib"] = one["all_mib"] - few
                rows.append(one)
                print(
                    f"{persons:9,d} {count:7d} {classifier:>10s} "
                    + " ".join(f"{one[column]:10,.1f}" for column in columns.values()),
                    f"  {one['step_seconds']:.2f} s a step" if run else "",
                    flush=True,
                )
    if options.out:
        host = f"{platform.machine()}, {os.cpu_count()} cores"
        settings = {name: getattr(options, name) for name in ("architecture", "embedding_size", "batch")}
        write_json(options.out, {"host": host, "code": code_version(), "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
