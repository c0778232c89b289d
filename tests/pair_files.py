"""Numbered pictures in files, and what is read of pairs of them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advcloak_jax.data import pair_sources
from advcloak_jax.data.pair_sources import FacePairs

SIZE = 16


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def png(number: int, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(number)).save(out, form)
    return out.getvalue()


def people(root: Path, **counts: int) -> Path:
    """root/NAME/NAME_0001.png; image i of a person shows picture(100 * its place + i)."""
    for place, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(1, count + 1):
            (root / name / f"{name}_{i:04d}.png").write_bytes(png(100 * place + i))
    return root


def load(path: Path, root: Path | None = None, on_bad_image: Any = "refuse") -> FacePairs:
    return pair_sources.load(pair_sources.open_pairs(path, root), image_size=SIZE, on_bad_image=on_bad_image)


def shown(pairs: FacePairs) -> list[tuple[bytes, bytes, bool]]:
    images = [image.tobytes() for image in pairs.images]
    return [(images[a], images[b], bool(s)) for a, b, s in zip(pairs.first, pairs.second, pairs.same, strict=True)]


def expected(*rows: tuple[int, int, bool]) -> list[tuple[bytes, bytes, bool]]:
    return [(picture(a).tobytes(), picture(b).tobytes(), s) for a, b, s in rows]
