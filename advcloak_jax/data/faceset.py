"""FaceSet: what every source of faces makes and everything else eats."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from advcloak_jax.data.rows import Images, join


@dataclasses.dataclass(frozen=True)
class FaceSet:
    """Faces of known people.

    images: [n, H, W, 3] uint8 RGB: an array, a memory map, or pictures on disk, decoded when they are asked for.
    identity: [n] int32, index into `names`.
    names: one name per identity, unique, prefixed by the source ("celeba/7202").
    """

    images: Images
    identity: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.identity)

    @property
    def image_size(self) -> int:
        """Height (= width) in pixels."""
        return int(self.images.shape[1])

    def counts(self) -> np.ndarray:
        """Images per identity, [len(names)] int64."""
        return np.bincount(self.identity, minlength=len(self.names))

    def images_of(self, identity: int) -> np.ndarray:
        """Indices of the images of one identity, ascending, [.] int64."""
        return np.flatnonzero(self.identity == identity)


def concatenate(sets: Sequence[FaceSet]) -> FaceSet:
    """Join sets of one image size into one; identities stay apart, names must be unique over all.

    Pictures on disk stay there. Raises ValueError when sizes differ or a name occurs twice.
    """
    if len(sets) == 1:
        return sets[0]
    names = tuple(name for faces in sets for name in faces.names)
    if len(set(names)) != len(names):
        raise ValueError("two sets share an identity name")
    if len({faces.image_size for faces in sets}) != 1:
        raise ValueError("sets differ in image size")
    offsets = np.cumsum([0] + [len(faces.names) for faces in sets[:-1]])
    return FaceSet(
        images=join([faces.images for faces in sets]),
        identity=np.concatenate([f.identity + o for f, o in zip(sets, offsets, strict=True)]).astype(np.int32),
        names=names,
    )
