"""Time to the first step, in fresh processes: flags, import, compilation with an empty and with a filled cache."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.sizes import SIZES, STAGE_ONE, SUBSPACES

ROOT = Path(__file__).parents[1]
COLUMNS = {
    "what": "what",
    "median s": "seconds.median:.2f",
    "low": "seconds.low:.2f",
    "high": "seconds.high:.2f",
}
FRESH = {
    "interpreter alone": ["-c", "pass"],
    "flags: train.py image --help": ["train.py", "image", "--help"],
    "import of what training needs": ["-c", "import advcloak_jax.jobs.train, tensorboardX"],
}
"""What a fresh interpreter is given, by the name of its row."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--stages", nargs="+", default=[STAGE_ONE], choices=[STAGE_ONE, *SUBSPACES])
    parser.add_argument("--size", default="full", choices=SIZES, help="default %(default)s, as published")
    parser.add_argument("--batch", type=int, default=8, help="images per step (default %(default)s)")


def run(options: argparse.Namespace) -> report.Outcome:
    """Flags, import, then each stage compiled twice for every repeat: with an empty cache, then with what that left."""
    if options.quick:
        options.size, options.batch, options.repeats = "quick", 4, 1
    rows: list[dict[str, Any]] = [
        {"what": name, "seconds": _spread([_seconds(arguments) for _ in range(options.repeats)])}
        for name, arguments in FRESH.items()
    ]
    for kind in options.stages:
        found: dict[str, list[float]] = {"trace": [], "compile, empty cache": [], "compile, filled cache": []}
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as cache:
                cold, warm = (_compile(kind, options.size, options.batch, cache) for _ in range(2))
            found["trace"] += [cold["trace"], warm["trace"]]
            found["compile, empty cache"].append(cold["compile"])
            found["compile, filled cache"].append(warm["compile"])
        rows += [{"what": f"{kind}: {name}", "seconds": _spread(values)} for name, values in found.items()]
    settings = {name: getattr(options, name) for name in ("size", "batch", "repeats")}
    return report.Outcome(settings, {"rows": rows}, report.table(rows, COLUMNS))


def _spread(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}


def _seconds(arguments: list[str]) -> float:
    """Wall time of a fresh interpreter with these arguments."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def _compile(kind: str, size: str, batch: int, cache: str) -> dict[str, float]:
    """Seconds of tracing and of compiling a stage's step in a fresh process."""
    code = (
        "import json; from pathlib import Path; from benchmarks import report, workloads; "
        "from benchmarks.sizes import SIZES; "
        f"report.use_cache(Path({cache!r})); size = SIZES[{size!r}]; "
        f"faces = workloads.noise_faces({batch}, size.image, {batch // 2}); "
        f"step = workloads.stage({kind!r}, size, faces, workloads.fresh_variables(size)); "
        "print(json.dumps({'trace': step.trace_seconds, 'compile': step.compile_seconds}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout.splitlines()[-1])
