"""Drawing tools for blocks of images: a pixel grid in face units, soft edges, soft spots, blending, value noise.

Only +, -, *, /, min, max and square roots are used on pixels: these are exactly rounded everywhere, so pictures are the
same bytes on every machine, which exp, sin or a matrix product would not promise.
"""

import dataclasses

import numpy as np

UNITS = 112.0
ORIGIN = (56.0, 60.0)  # the face frame's origin in the crop (x, y), units from the top left corner


@dataclasses.dataclass(frozen=True)
class Grid:
    """Pixel centres of a size x size crop in units around the face's origin."""

    size: int

    @property
    def pixel(self) -> float:
        """Side of a pixel in units."""
        return UNITS / self.size

    @property
    def x(self) -> np.ndarray:
        """Columns, [1, 1, size] float32."""
        return ((np.arange(self.size, dtype=np.float32) + 0.5) * self.pixel - ORIGIN[0]).astype(np.float32)[None, None]

    @property
    def y(self) -> np.ndarray:
        """Rows, [1, size, 1] float32."""
        rows = ((np.arange(self.size, dtype=np.float32) + 0.5) * self.pixel - ORIGIN[1]).astype(np.float32)
        return rows[None, :, None]

    def window(self, top: float, bottom: float, left: float, right: float) -> tuple:
        """Index of a part of [..., size, size] given in units around the face's origin, cut at the crop's edges."""
        low = [max(int((edge + o) / self.pixel), 0) for edge, o in ((top, ORIGIN[1]), (left, ORIGIN[0]))]
        high = [min(int((e + o) / self.pixel) + 1, self.size) for e, o in ((bottom, ORIGIN[1]), (right, ORIGIN[0]))]
        return (..., slice(low[0], high[0]), slice(low[1], high[1]))

    def edge(self, distance: np.ndarray, softness: float = 1.0) -> np.ndarray:
        """Coverage in [0, 1] of a shape from the signed distance to its edge (units, inside > 0); overwrites it.

        The ramp is `softness` units wide, and never narrower than a pixel, which is what antialiases.
        """
        distance *= 1.0 / max(softness, self.pixel)
        distance += 0.5
        return np.clip(distance, 0.0, 1.0, out=distance)


def spot(dx: np.ndarray, dy: np.ndarray, rx: np.ndarray | float, ry: np.ndarray | float) -> np.ndarray:
    """A soft round hill: 1 at (0, 0), 0 beyond the ellipse of radii (rx, ry), smooth between."""
    across = dx / rx
    across *= across
    down = dy / ry
    down *= down
    across += down
    np.subtract(1.0, across, out=across)
    np.maximum(across, 0.0, out=across)
    across *= across
    return across


def paint(image: np.ndarray, coverage: np.ndarray, colour: np.ndarray) -> None:
    """Lay a colour ([b, 3, 1, 1] or [b, 3, h, w]) over image [b, 3, h, w], in place, where coverage [b, h, w] says."""
    change = colour - image
    change *= coverage[:, None]
    image += change


def darken(field: np.ndarray, coverage: np.ndarray) -> None:
    """Scale field by 1 - coverage, in place."""
    np.subtract(1.0, coverage, out=coverage)
    field *= coverage


def value_noise(lattice: np.ndarray, size: int) -> np.ndarray:
    """Stretch random lattices [b, m, n] smoothly over [b, size, size]."""
    rows, row_part = _stretch(lattice.shape[1], size)
    columns, column_part = _stretch(lattice.shape[2], size)
    lower, upper = lattice[:, rows], lattice[:, rows + 1]
    tall = lower + (upper - lower) * row_part[:, None]
    left = np.take(tall, columns, axis=2)
    right = np.take(tall, columns + 1, axis=2)
    right -= left
    right *= column_part
    right += left
    return right


def _stretch(points: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    place = (np.arange(size) + 0.5) * (points - 1) / size
    index = place.astype(np.intp)
    part = place - index
    return index, (part * part * (3 - 2 * part)).astype(np.float32)
