"""Any picture to square uint8 RGB, many at once, and what becomes of those that cannot be used."""

import dataclasses
import io
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from advcloak_jax.config import BadImage
from advcloak_jax.errors import UserError

Progress = Callable[[str, int, int], None]

_log = logging.getLogger("advcloak_jax")

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
MAX_PIXELS = 89_478_485  # Pillow's own threshold for a decompression bomb; we refuse where Pillow only warns.
MAX_ASPECT = 1.1  # longer over shorter side; beyond it, squeezing to a square would distort the face
MIN_SCALE = 0.5  # a side shorter than this share of the target holds too little to enlarge
_BLOCK = 64  # images per thread-pool task, so that a large set does not queue a future per image


class BadImageError(Exception):
    """A picture that cannot be used; the message is the reason, without the file's name."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Outcome of `decode_all` for n items, of which m were usable.

    images: [m, size, size, 3] uint8 RGB.   kept: [m] int64, the usable items' numbers, ascending.
    bad: (item number, reason), ascending.   resized: how many of the m had another size.
    """

    images: np.ndarray
    kept: np.ndarray
    bad: tuple[tuple[int, str], ...]
    resized: int


def read_rgb(path: Path) -> Image.Image:
    """Decode one JPEG, PNG, BMP or WebP file, whatever its suffix says, to an RGB picture.

    EXIF orientation is applied; see `to_rgb` for the modes. An RGB file without orientation keeps every pixel as
    Pillow decodes it. Of an animation the first frame is taken. Raises BadImageError.
    """
    return rgb_of_bytes(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """A picture's file as it is. Raises BadImageError when it cannot be read."""
    if not os.path.isfile(path):  # also keeps us from waiting at a pipe
        raise BadImageError("not a readable file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read ({_reason(error)})") from error


def rgb_of_bytes(data: bytes) -> Image.Image:
    """Decode a picture's file from memory, by the rules of `read_rgb`. Raises BadImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImageError(f"{image.width}x{image.height} pixels are too many")
            return to_rgb(ImageOps.exif_transpose(image))
    except BadImageError:
        raise
    except Image.UnidentifiedImageError:
        raise BadImageError("not a JPEG, PNG, BMP or WebP image") from None
    except Image.DecompressionBombError:
        raise BadImageError("too many pixels") from None
    except Exception as error:  # Pillow's decoders answer hostile bytes with nearly any exception
        raise BadImageError(f"cannot be decoded ({_reason(error)})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded picture to RGB.

    Grey is repeated to three channels, 16-bit grey keeps its high byte (as Pillow does for 16-bit colour), and
    transparency is composited on white. Raises BadImageError for 32-bit integer and floating-point pictures.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImageError(f"pixels of mode {image.mode} have no known scale")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("RGB")


def fit(image: Image.Image, image_size: int) -> tuple[np.ndarray, bool]:
    """Bring an RGB picture to [image_size, image_size, 3] uint8; the flag tells whether it was resampled.

    A picture of the right size is returned pixel for pixel; others are resampled with Pillow's Lanczos filter, which
    widens with the reduction and so does not alias. Raises BadImageError when the picture is too small or too far
    from square.
    """
    width, height = image.size
    if (width, height) == (image_size, image_size):
        return np.asarray(image), False
    if min(width, height) < MIN_SCALE * image_size:
        raise BadImageError(f"{width}x{height} is too small for {image_size}x{image_size}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImageError(f"{width}x{height} is not square, and resizing it would distort the face")
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.LANCZOS)), True


def decode_all(
    count: int, read: Callable[[int], Image.Image], image_size: int, label: str, progress: Progress | None
) -> Decoded:
    """Decode items 0..count-1 with `read` in a thread pool, each straight to the target size.

    Peak memory is count * image_size^2 * 3 bytes. `read` must be safe to call from several threads; what it raises
    other than BadImageError is passed on. The result does not depend on the number of threads.
    """
    images = np.empty((count, image_size, image_size, 3), np.uint8)

    def decode_block(start: int) -> tuple[list[tuple[int, str]], int]:
        bad: list[tuple[int, str]] = []
        resized = 0
        for item in range(start, min(start + _BLOCK, count)):
            try:
                images[item], resampled = fit(read(item), image_size)
                resized += resampled
            except BadImageError as error:
                bad.append((item, str(error)))
        return bad, resized

    bad: list[tuple[int, str]] = []
    resized = 0
    with ThreadPoolExecutor(_threads()) as pool:
        try:
            starts = range(0, count, _BLOCK)
            for start, (more_bad, more_resized) in zip(starts, pool.map(decode_block, starts), strict=True):
                bad += more_bad
                resized += more_resized
                if progress is not None:
                    progress(label, min(start + _BLOCK, count), count)
        finally:
            pool.shutdown(cancel_futures=True)
    kept = np.setdiff1d(np.arange(count), [item for item, _ in bad])
    return Decoded(images if not bad else images[kept], kept, tuple(bad), resized)


def settle_bad(bad: Sequence[tuple[str, str]], policy: BadImage, label: str) -> None:
    """Refuse or list unusable items, given as (where, reason).

    Raises UserError under "refuse"; under "skip" logs one warning for each.
    """
    if not bad:
        return
    if policy == "refuse":
        where, reason = bad[0]
        others = f", and so are {len(bad) - 1} more of {label}" if len(bad) > 1 else ""
        raise UserError(
            f"{where} is unusable ({reason}){others}; mend or remove {'them' if others else 'it'}, "
            "or pass --on-bad-image skip."
        )
    for where, reason in bad:
        _log.warning("skipped %s: %s", where, reason)
    _log.warning("%s: %d unusable skipped", label, len(bad))


def warn_resized(decoded: Decoded, image_size: int, label: str) -> None:
    """Log one warning for a whole set when some of its images were resampled."""
    if decoded.resized:
        _log.warning(
            "%s: %d of %d images were not %dx%d and were resized",
            label,
            decoded.resized,
            len(decoded.kept),
            image_size,
            image_size,
        )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _threads() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(available or 1, 32)
