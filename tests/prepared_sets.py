"""A small folder of faces, and what it is prepared to."""

from pathlib import Path
from typing import Any

from PIL import Image
from rec_files import encoded, smooth

from advcloak_jax.config import PrepareConfig
from advcloak_jax.data import manifest, sources
from advcloak_jax.data.faceset import FaceSet

SIZE = 32


def write_people(folder: Path) -> Path:
    """21 images of 3 people: JPEG of the right size, PNG, larger JPEG, grey JPEG."""
    root = folder / "people"
    for number in range(21):
        folder = root / f"person_{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = smooth(number, SIZE)
        if number == 5:
            Image.fromarray(picture).save(folder / f"{number:02d}.png")
        elif number == 7:
            (folder / f"{number:02d}.jpg").write_bytes(encoded(smooth(number, 2 * SIZE)))
        elif number == 8:
            (folder / f"{number:02d}.jpg").write_bytes(encoded(picture[..., 0]))
        else:
            (folder / f"{number:02d}.jpg").write_bytes(encoded(picture))
    return root


def settings(source: Path, out: Path, kind: str = "jpeg", **more: Any) -> PrepareConfig:
    return PrepareConfig(
        source=f"folder:{source}",
        out=str(out),
        encoding=kind,  # type: ignore[arg-type]
        image_size=SIZE,
        shard_images=more.pop("shard_images", 4),
        **more,
    )


def load(spec: str, size: int = SIZE) -> FaceSet:
    return sources.load([spec], image_size=size, on_bad_image="refuse", cache=None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != manifest.VERIFIED}


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    path.write_bytes(data)
