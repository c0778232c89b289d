"""Photos of any size: found in a folder, read, and written again without what a camera tells of place and time."""

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

from PIL import Image

from advcloak_jax.config.protecting import FileFormat
from advcloak_jax.data.decode import BadImageError, read_bytes, rgb_of_bytes
from advcloak_jax.data.folder import SUFFIXES
from advcloak_jax.errors import UserError

PICTURES = frozenset({".heic", ".heif", ".avif", ".tif", ".tiff", ".gif", ".jfif", ".jpe", ".jp2", ".jxl"})
RAW_AND_FILMS = frozenset({".dng", ".raw", ".cr2", ".nef", ".arw", ".mov", ".mp4", ".avi", ".webm"})
"""Suffixes of what is told to be left out, so that nobody takes it for protected."""
JPEG_QUALITY = 95
_SUFFIX = {"png": ".png", "jpeg": ".jpg"}
_WRITTEN = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo, upright and RGB, and the colour profile that its values are meant in, if it names one."""

    picture: Image.Image
    profile: bytes | None


def find(root: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The photos below a folder, by the order of their paths, and pictures that cannot be read, with why.

    Raises UserError when there is no photo, or a folder cannot be looked into.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder; name the one that holds the person's photos.")
    found: list[Path] = []
    others: list[tuple[Path, str]] = []
    for folder, below, names in os.walk(root, onerror=_not_seen):
        below[:] = sorted(name for name in below if not name.startswith("."))
        others += [(Path(folder) / name, "a link to a folder") for name in below if (Path(folder) / name).is_symlink()]
        for path in (Path(folder) / name for name in names if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                found.append(path)
            elif path.suffix.lower() in PICTURES | RAW_AND_FILMS:
                others.append((path, f"{path.suffix} is not read, but JPEG, PNG, BMP and WebP are"))
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise UserError(f"{root} holds no photos ({kinds}); name another folder, or convert them (HEIC to JPEG, say).")
    return sorted(found), sorted(others)


def _not_seen(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be looked into ({error.strerror}); change its permissions.") from error


def read(path: Path) -> Photo:
    """A photo's file. Raises BadImageError."""
    data = read_bytes(path)
    picture = rgb_of_bytes(data)
    with Image.open(io.BytesIO(data)) as opened:
        # The profile of a file in other colours, as of a printer, does not fit RGB.
        profile = opened.info.get("icc_profile") if opened.mode in ("RGB", "RGBA", "P") else None
    return Photo(picture, profile)


def passed_on(picture: Image.Image, side: int, quality: int) -> Image.Image:
    """A picture as a web site may show it: its longer side at most `side` pixels, and through a JPEG of that quality,
    with colours at half the resolution, as most are. 0 leaves either out.
    """
    if side and max(picture.size) > side:
        scale = side / max(picture.size)
        smaller = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(smaller, Image.Resampling.LANCZOS)
    if quality:
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=quality, subsampling="4:2:0")
        picture = Image.open(file).convert("RGB")
    return picture


def name_of(path: Path, form: FileFormat) -> Path:
    """What the protected photo of a file is called."""
    return path if form == "same" else path.with_suffix(_SUFFIX[form])


def write(path: Path, photo: Photo) -> None:
    """Write a photo in the format of its name's suffix: JPEG nearly without loss, WebP, which else halves the
    resolution of colours and the mask's with it, and all others without. Raises BadImageError.
    """
    kind = _WRITTEN[path.suffix.lower()]
    options: dict[str, Any] = {}
    if kind == "JPEG":
        options = {"quality": JPEG_QUALITY, "subsampling": 0}
    if kind == "WEBP":
        options = {"lossless": True}
    if photo.profile and kind != "BMP":
        options["icc_profile"] = photo.profile
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        photo.picture.save(path, format=kind, **options)
    except ValueError as error:  # WebP holds no more than 16,383 pixels a side
        raise BadImageError(f"cannot be written as {kind} ({error})") from error
