"""How long training waits for its input, and how many faces a second each feed gives, at two sizes of set.

usage: python -m benchmarks.feed PART [--large PREPARED_SET] [--small PREPARED_SET] [--out benchmarks/results/feed.json]

Parts are measured one at a time and joined in the file: demo, large, alone.

Training: `train.py recognizer` with a small network, every feed that applies, the share of the time that the loop
waited for its input. Alone: calls taken one after the other as quickly as they come, with nothing else to do, in a
process of its own, whose memory is measured too. Sets: `python -m benchmarks.large_set`.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from advcloak_jax.config import RecognizerConfig
from advcloak_jax.data import sources, splits
from advcloak_jax.data.rows import Chosen
from advcloak_jax.files import write_json
from advcloak_jax.jobs.recognizer import index_batches
from advcloak_jax.training.feed_choice import make_feed
from advcloak_jax.training.metrics import read_metrics
from advcloak_jax.training.runs import code_version

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
DEMO_STEPS = 60
LARGE = [
    *("--steps", "40", "--steps-per-dispatch", "2", "--log-every", "8", "--checkpoint-every", "40"),
    *("--architecture", "mobilefacenet", "--width", "0.5", "--embedding-size", "64", "--margin", "cosface"),
    *("--batch", "64", "--split.protected", "1", "--split.n-inference", "1", "--split.n-test", "2"),
    *("--split.generator", "1", "--split.generator-images", "2", "--split.validation", "10"),
    *("--split.surrogate", "9900"),
]
ALONE_BATCH, ALONE_STEPS_PER_CALL = 512, 2
WAIT_ALLOWED = 0.01
SETTINGS = {
    "demo": f"train.py recognizer --preset demo --steps {DEMO_STEPS} (48x48, batch 64)",
    "large": f"train.py recognizer {' '.join(LARGE)} (112x112, JPEG)",
    "alone": f"batches of {ALONE_BATCH} faces of 112x112, {ALONE_STEPS_PER_CALL} steps a call, JPEG",
}


def alone(spec: str, kind: str, workers: int, seconds: float) -> dict[str, Any]:
    """Faces a second of one feed with nothing else to do; run in a process of its own."""
    before = _memory()
    faces = sources.load([spec], image_size=112, on_bad_image="refuse", cache=None)
    opened = _memory()
    persons = np.arange(len(faces.names))
    chosen, labels = splits.images_with_labels(faces, persons)
    config = RecognizerConfig(
        feed=kind,  # type: ignore[arg-type]
        feed_workers=workers,
        batch=ALONE_BATCH,
        sampling="shuffled",
    )
    rows = {"faces": Chosen(faces.images, chosen), "labels": labels}
    feed = make_feed(config, rows, index_batches(config, labels), jax.local_devices()[:1], 1_000_000)
    jax.block_until_ready(feed.batches(0, ALONE_STEPS_PER_CALL))
    # What was read ahead is not counted.
    calls, began, used = 0, 0.0, 0.0
    for call in range(1, 100_000):
        jax.block_until_ready(feed.batches(call * ALONE_STEPS_PER_CALL, ALONE_STEPS_PER_CALL))
        if call == 8:
            began, used = time.perf_counter(), _processor_seconds()
        if call > 8:
            calls += 1
            if time.perf_counter() - began > seconds:
                break
    elapsed = time.perf_counter() - began
    given = calls * ALONE_STEPS_PER_CALL * ALONE_BATCH
    used = _processor_seconds() - used
    feed.close()
    return {
        "images": len(faces),
        "faces_per_second": given / elapsed,
        "faces_per_second_and_core": given / used if kind == "streamed" and not workers else None,
        "starting_seconds": feed.starting_seconds,
        "memory_mb": {"before": before, "opened": opened, "at_most": _peak_memory()},
    }


def training(spec: list[str], kind: str, flags: list[str]) -> dict[str, Any]:
    """What a run of `train.py recognizer` tells of its input."""
    with tempfile.TemporaryDirectory(prefix="feed-") as folder:
        command = [sys.executable, str(TRAIN), "recognizer", *flags, "--feed", kind, "--run", f"{folder}/run"]
        subprocess.run([*command, "--data", *spec], check=True)
        told = json.loads((Path(folder) / "run" / "result.json").read_text())["input"]
        rows = [row for row in read_metrics(Path(folder) / "run") if row["loss"]]
    # The first row has the compilation in it, which would make the share too small.
    shares = [float(row["input_wait"]) for row in rows[1:]]
    rates = [float(row["images_per_second"]) for row in rows[1:]]
    return {
        "feed": kind,
        "input_wait": {"mean": float(np.mean(shares)), "largest_row": max(shares)},
        "images_per_second": float(np.median(rates)),
        "starting_seconds": told["starting"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["demo", "large", "alone"], nargs="?", help="what to measure")
    parser.add_argument("--large", type=Path, help="prepared set of some 500,000 images")
    parser.add_argument("--small", type=Path, help="prepared set of a few thousand, to compare memory with")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement alone (default %(default)s)")
    parser.add_argument("--cache", default="runs/cache", help="of compiled programs and drawn faces")
    parser.add_argument("--alone", nargs=3, metavar=("SPEC", "KIND", "WORKERS"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    if options.alone:
        spec, kind, workers = options.alone
        print(json.dumps(alone(spec, kind, int(workers), options.seconds)))
        return

    def measured(folder: Path, kind: str, workers: int) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.feed", "--seconds", str(options.seconds)]
        done = subprocess.run(
            [*command, "--alone", f"tfds:{folder}", kind, str(workers)], check=True, stdout=subprocess.PIPE, text=True
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        # Streamed faces are ready ahead of time as long as fewer are asked for than come. The order of resident ones is
        # computed when it is asked for; that the devices still have work meanwhile is not counted.
        share = 1 + WAIT_ALLOWED if kind == "streamed" else WAIT_ALLOWED
        limit = found["faces_per_second"] / ALONE_BATCH * share
        return {"feed": kind, "workers": workers, **found, "steps_per_second_at_1_percent_wait": limit}

    common = ["--cache", options.cache]
    results: dict[str, Any]
    if options.part == "demo":
        flags = ["--preset", "demo", "--steps", str(DEMO_STEPS), "--checkpoint-every", str(DEMO_STEPS), *common]
        results = {kind: training(["synthetic:640x20"], kind, flags) for kind in ("resident", "streamed")}
    elif options.part == "large":
        results = {"streamed": training([f"tfds:{options.large}"], "streamed", [*LARGE, *common])}
    else:
        results = {"large": [measured(options.large, "streamed", workers) for workers in (0, 1, 2)]}
        if options.small:
            results["small"] = [measured(options.small, kind, 0) for kind in ("resident", "streamed")]
    print(json.dumps(results, indent=2))
    if options.out:
        device = jax.devices()[0]
        facts = {
            "device": f"{device.platform} {device.device_kind}",
            "host": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {name: version(name) for name in ("jax", "grain", "array_record", "pillow", "numpy")},
            "code": code_version(),
            "settings": SETTINGS[options.part],
        }
        earlier = json.loads(options.out.read_text()) if options.out.exists() else {}
        write_json(options.out, earlier | {options.part: facts | {"results": results}})


def _memory() -> float:
    """Resident memory of this process now, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError("/proc/self/status has no VmRSS")


def _peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
