"""A large prepared set of cheap faces: drawn ones, each many times over, mirrored, shifted, brightened.

usage: python -m benchmarks.large_set OUT [--identities 10000] [--images 50] [--drawn 2000]
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from advcloak_jax.config import PrepareConfig
from advcloak_jax.data.listing import Listing
from advcloak_jax.data.preparing import prepare
from advcloak_jax.data.synthetic import synthetic_faces
from advcloak_jax.progress import Progress

SIZE = 112
QUALITY = 92
SHIFT = 6  # pixels in either direction
GAIN = 0.25
SEED = 0


def jpeg(pixels: np.ndarray) -> bytes:
    """[H, W, 3] uint8 as a JPEG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def varied(faces: np.ndarray, identity: int, image: int) -> np.ndarray:
    """Picture `image` of `identity`: one of its two drawn faces, changed by numbers that depend on both alone."""
    rng = np.random.default_rng([SEED, identity, image])
    face = faces[(2 * identity + image % 2) % len(faces)]
    if rng.random() < 0.5:
        face = face[:, ::-1]
    # People who share a drawn face differ in their colours.
    tint = np.random.default_rng([SEED, identity]).uniform(1 - GAIN, 1 + GAIN, 3)
    gain = (tint * rng.uniform(1 - GAIN, 1 + GAIN)).astype(np.float32)
    moved = np.roll(face, rng.integers(-SHIFT, SHIFT + 1, 2), axis=(0, 1))
    return np.clip(moved * gain, 0, 255).astype(np.uint8)


def listing(faces: np.ndarray, identities: int, images: int) -> Listing:
    """`images` varied pictures of each identity, encoded when they are asked for."""
    return Listing(
        label=f"varied:{identities}x{images}",
        owner=np.repeat(np.arange(identities, dtype=np.int32), images),
        names=tuple(f"{identity:06d}" for identity in range(identities)),
        encoded=lambda item: jpeg(varied(faces, item // images, item % images)),
        where=lambda item: f"picture {item}",
        bad=(),
        fingerprint=f"{SEED} {len(faces)} {identities} {images}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--identities", type=int, default=10_000, help="default %(default)s")
    parser.add_argument("--images", type=int, default=50, help="of each identity (default %(default)s)")
    parser.add_argument("--drawn", type=int, default=2000, help="faces that are drawn (default %(default)s)")
    options = parser.parse_args()
    with Progress("drawing", options.drawn, "faces") as bar:
        drawn = synthetic_faces(options.drawn // 2, 2, seed=SEED, image_size=SIZE, progress=_counter(bar))
    total = options.identities * options.images
    with Progress(f"preparing {options.out}", total, "images") as bar:
        advance = _counter(bar)
        config = PrepareConfig(source="varied", out=str(options.out), image_size=SIZE)
        prepare(
            listing(np.asarray(drawn.images), options.identities, options.images),
            options.out,
            config,
            progress=lambda done, _: advance(done),
        )


def _counter(bar: Progress) -> Callable[[int], None]:
    """Turns "so many done" into "so many more"."""
    reached = 0

    def report(done: int) -> None:
        nonlocal reached
        bar.update(done - reached)
        reached = done

    return report


if __name__ == "__main__":
    main()
