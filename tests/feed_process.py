"""One of several processes that read the same feed: arguments PROCESS PROCESSES PORT SET; prints what the graph saw.

Run by test_feed_processes.py.
"""

import hashlib
import json
import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

from advcloak_jax.config import RecognizerConfig
from advcloak_jax.data import order, sources
from advcloak_jax.training import parallel, placement
from advcloak_jax.training.feed_choice import make_feed
from advcloak_jax.training.steps import DEVICES

BATCH, COUNT, CALLS = 4, 3, 2


class Resident(NamedTuple):
    rows: Any


class State(NamedTuple):
    step: Any


def digest(kind: str, mapping: str, rows: dict[str, Any], batches: Any) -> str:
    """Of all rows and positions of the global batches of some steps, as the devices had them, in their order."""
    config = RecognizerConfig(feed=kind, parallel=mapping)  # type: ignore[arg-type]
    devices = placement.pick_devices(1, BATCH, "--batch")
    feed = make_feed(config, rows, batches, devices, COUNT * CALLS)

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        return state, jax.tree.map(lambda x: lax.all_gather(x, DEVICES, tiled=True), batch)

    def gather(resident: Any, item: Any, number: Any) -> Any:
        return {**feed.take(resident.rows, item), "position": item["position"]}

    run = parallel.parallelise(
        parallel.scan_steps(lambda _: step, gather, unroll=False), devices, mapping, resident_specs=Resident(feed.specs)
    )
    state = placement.replicate(State(jnp.int32(0)), devices)
    found = hashlib.sha256()
    for call in range(CALLS):
        state, seen = run(state, Resident(feed.rows), feed.batches(call * COUNT, COUNT))
        for name in sorted(seen):
            found.update(np.asarray(seen[name].addressable_data(0)).tobytes())
    feed.close()
    return found.hexdigest()


def main() -> None:
    process, processes, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, process)
    faces = sources.load([f"tfds:{folder}"], image_size=32, on_bad_image="refuse", cache=None)
    rows = {"faces": faces.images, "labels": faces.identity}
    batches = partial(order.image_batches, 5, len(faces), BATCH)
    print(
        json.dumps(
            {
                f"{kind} {mapping}": digest(kind, mapping, rows, batches)
                for kind in ("resident", "sharded", "streamed")
                for mapping in ("pmap", "shard_map")
            }
        )
    )
    if processes > 1:
        multihost_utils.sync_global_devices("done")


if __name__ == "__main__":
    main()
