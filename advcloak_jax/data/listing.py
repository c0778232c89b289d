"""Listing: the pictures of a source as encoded bytes in a fixed order, before any is decoded."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
from PIL import Image

from advcloak_jax.config import BadImage
from advcloak_jax.data.decode import Progress, decode_all, rgb_of_bytes, settle_bad, warn_resized
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.errors import UserError

_log = logging.getLogger("advcloak_jax")


@dataclasses.dataclass(frozen=True)
class Listing:
    """n pictures of known people, not read yet.

    label: the source as messages call it.   owner: [n] int32, index into `names`.   names: of the identities, unique.
    encoded: picture i as the bytes of an image file, or raises BadImageError; safe to call from several threads.
    where: what to call picture i in messages.   bad: (where, reason) of what is unusable without decoding it.
    fingerprint: changes when the source does.
    """

    label: str
    owner: np.ndarray
    names: tuple[str, ...]
    encoded: Callable[[int], bytes]
    where: Callable[[int], str]
    bad: tuple[tuple[str, str], ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.owner)


def load_listing(
    listing: Listing, *, image_size: int, on_bad_image: BadImage, progress: Progress | None = None
) -> FaceSet:
    """Decode every picture of a listing to one FaceSet in memory; other sizes: see decode.fit.

    Under "refuse" an unusable one raises UserError; under "skip" it is left out and listed by a logged warning, and so
    are identities left without an image. Raises UserError when nothing is left.
    """

    def read(item: int) -> Image.Image:
        return rgb_of_bytes(listing.encoded(item))

    decoded = decode_all(len(listing), read, image_size, listing.label, progress)
    bad = [*listing.bad, *((listing.where(item), reason) for item, reason in decoded.bad)]
    settle_bad(sorted(bad), on_bad_image, listing.label)
    if not len(decoded.kept):
        raise UserError(f"{listing.label} holds no usable image; see the warnings above.")
    warn_resized(decoded, image_size, listing.label)
    used, identity = np.unique(listing.owner[decoded.kept], return_inverse=True)
    for number in sorted(set(range(len(listing.names))) - set(used.tolist())):
        _log.warning("%s: %s holds no usable image and is left out", listing.label, listing.names[number])
    return FaceSet(decoded.images, identity.astype(np.int32), tuple(listing.names[number] for number in used))
