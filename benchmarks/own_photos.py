"""How well whole photos hide that `protect.py` has protected: one person after another, then the mean over them.

usage: python -m benchmarks.own_photos PHOTOS --out FILE.json -- --detector scrfd.onnx --method ... --targets ...

PHOTOS has a sub-folder of photos per person; what stands behind `--` is for protect.py, the same for all of them. The
protected photos are written as their originals are, read again, their faces found anew, cut out and identified among
the distractors.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advcloak_jax import cli, commands
from advcloak_jax.config import ProtectConfig
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.bootstrap import interval
from advcloak_jax.files import require_file, write_json
from advcloak_jax.jobs import protect
from advcloak_jax.settings import read_json
from benchmarks import report


def one(photos: Path, flags: Sequence[str], cache: Path) -> dict[str, Any]:
    """What protection.json says of one person, with the seconds that it took; the photos are thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        arguments = [str(photos), str(out), "--cache", str(cache), *flags]
        config = cli.parse_one(commands.PROTECT, ProtectConfig, arguments, job="protect")
        began = time.monotonic()
        protect.run(config)
        told: dict[str, Any] = read_json(out / "protection.json")
        return told | {"seconds": time.monotonic() - began, "flags": list(flags)}


def summary(persons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each recogniser the means over persons, with 95 % intervals: cosines, and percent hidden from the top k."""
    rows = []
    for number, first in enumerate(persons[0]["recognisers"]):
        own = [person["recognisers"][number] for person in persons]
        row: dict[str, Any] = {"name": first["name"]}
        for when in ("before", "after"):
            row[f"cosine_{when}"] = _estimate([float(np.mean(one[when])) for one in own])
        for k in first["hidden"]:
            for place, when in enumerate(("before", "after")):
                row[f"top{k}_{when}"] = _estimate([one["hidden"][k][place] for one in own])
        rows.append(row)
    return rows


def _estimate(values: Sequence[float]) -> dict[str, float]:
    low, high = interval(np.asarray(values), seed=0)
    return {"value": float(np.mean(values)), "low": low, "high": high}


def text_table(rows: Sequence[dict[str, Any]]) -> str:
    """The summary as aligned text."""
    lines = [f"{'recogniser':30s} {'hidden from top-1, %: clean':>28s} {'protected':>20s} {'top-5: protected':>20s}"]
    for row in rows:
        cells = [
            "{value:.1f} [{low:.1f}, {high:.1f}]".format(**row[name])
            for name in ("top1_before", "top1_after", "top5_after")
        ]
        lines.append(f"{row['name']:30s} {cells[0]:>28s} {cells[1]:>20s} {cells[2]:>20s}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    place = list(arguments).index("--") if "--" in arguments else len(arguments)
    own, flags = arguments[:place], list(arguments[place + 1 :])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder with a sub-folder of photos per person")
    parser.add_argument("--persons", type=int, default=0, help="first so many only (default: all)")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="default %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the figures")
    options = parser.parse_args(own)
    if not {"--targets", "--distractors"} <= set(flags):
        parser.error("--targets and --distractors are needed behind --: whom to hide from, and among whom")
    folders = sorted(path for path in options.photos.glob("*/") if path.is_dir())[: options.persons or None]
    if not folders:
        parser.error(f"{options.photos} holds no folder of photos")
    try:
        require_file(options.out, f"--out {options.out}")
        persons = [person for folder in folders if (person := kept(folder, flags, options)) is not None]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not persons:
        parser.error(f"{options.photos} holds nobody with two photos that can be used")
    print(text_table(summary(persons)))
    write_json(options.out, report.facts() | figures(persons))
    return 0


def kept(photos: Path, flags: Sequence[str], options: argparse.Namespace) -> dict[str, Any] | None:
    """What was measured of a person, taken from beside --out if it is there; None for one without two usable photos."""
    path = options.out.with_suffix(".persons") / f"{photos.name}.json"
    if path.exists():
        found: dict[str, Any] = read_json(path)
    else:
        print(f"person {photos.name}", file=sys.stderr)
        found = one(photos, flags, options.cache)
        write_json(path, found)
    if found["flags"] != list(flags):
        raise UserError(f"{path} was measured with other flags; remove it, or name another --out.")
    return found if all(one["hidden"] for one in found["recognisers"]) else None


def without_folders(value: Any) -> Any:
    """A setting with file names in place of paths: where they lay on a machine is nobody's business."""
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    return re.sub(r"(^|[:+])[^,:+]*/", r"\1", value) if isinstance(value, str) else value


def figures(persons: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary with what it was made of."""
    photos = [photo for person in persons for photo in person["photos"]]
    pixels = [photo["face_pixels"] for photo in photos]
    asked = {
        name: without_folders(value)
        for name, value in persons[0]["settings"].items()
        if name not in ("photos", "out", "cache")
    }
    return {
        "persons": len(persons),
        "photos": len(photos),
        "found_again": sum(photo["found_again"] for photo in photos),
        "doubtful": sum(photo["doubtful"] for photo in photos),
        "left_out": sum(len(person["left_out"]) for person in persons),
        "face_pixels": {f"{q:g}": float(np.quantile(pixels, q)) for q in (0.1, 0.5, 0.9)},
        "seconds_per_person": float(np.median([person["seconds"] for person in persons])),
        "cloak": persons[0]["cloak"],
        "protect": asked,
        "rows": summary(persons),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
