"""The input pipeline: faces per second that are decoded, drawn, and gathered on the device."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from advcloak_jax import images
from advcloak_jax.data import sources
from benchmarks import report, timing, workloads

COLUMNS = {
    "what": "what",
    "faces": "faces",
    "faces/s": "faces_per_second.median:,.0f",
    "low": "faces_per_second.low:,.0f",
    "high": "faces_per_second.high:,.0f",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--faces", type=int, default=512, help="faces that are read or drawn (default %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="faces of a gathered batch (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=112, help="default %(default)s")


def run(options: argparse.Namespace) -> report.Outcome:
    """JPEG and PNG folders, synthetic faces, and what a step does first: gather, and scale to [0, 1]."""
    if options.quick:
        options.faces, options.batch, options.repeats, options.image_size = 8, 4, 1, 32
    side = options.image_size
    pixels = workloads.noise_faces(options.faces, side, 4).pixels
    rows: list[dict[str, Any]] = []

    def add(what: str, faces: int, call: Callable[[], Any]) -> None:
        found = timing.measure(call, options.repeats)
        rows.append({"what": what, "faces": faces} | found.summary(faces, "faces"))

    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("jpg", "png"):
            root = _folder(Path(folder) / suffix, pixels, suffix)
            add(f"decoding a folder of {suffix} files", options.faces, lambda root=root: _load(f"folder:{root}", side))
        persons = max(1, options.faces // 8)
        add("drawing synthetic faces", persons * 8, lambda: _load(f"synthetic:{persons}x8", side))
    resident = jnp.asarray(pixels)
    index = np.random.default_rng(0).integers(0, len(pixels), options.batch).astype(np.int32)
    gather = jax.jit(lambda faces, index: images.to_unit(faces[index]))
    add("gathering on the device", options.batch, lambda: gather(resident, index))
    add("copying to the device", options.faces, lambda: jnp.array(pixels))
    settings = {name: getattr(options, name) for name in ("faces", "batch", "image_size", "repeats")}
    return report.Outcome(settings, {"rows": rows}, report.table(rows, COLUMNS))


def _folder(root: Path, pixels: np.ndarray, suffix: str) -> Path:
    """A folder of persons with four images each."""
    for number, picture in enumerate(pixels):
        person = root / f"{number // 4:05d}"
        person.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(person / f"{number % 4}.{suffix}")
    return root


def _load(source: str, side: int) -> Any:
    return sources.load((source,), image_size=side, on_bad_image="refuse", cache=None, progress=lambda *_: None).images
