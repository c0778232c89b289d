"""Faces with five landmarks in a photo, by an SCRFD network in an ONNX file (Guo et al., ICLR 2022).

The network is the user's to bring: InsightFace publishes several, `det_10g.onnx` among them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import onnx_target

STRIDES = (8, 16, 32)
WIDTHS = [1, 4, 10]
"""Numbers of a score, of a box and of five points."""
SIDES = (640, 320)
"""Sides that a photo is brought to, one after the other until a face is found: one that fills a photo is seen small."""
SCORE, OVERLAP = 0.5, 0.4
"""Least score of a face, and the overlap above which two are one; as published."""


class Face(NamedTuple):
    """box [4]: left, top, right, bottom; points [5, 2]: eyes, nose, corners of the mouth; all in continuous (x, y)."""

    box: np.ndarray
    points: np.ndarray
    score: float


class Detector:
    """Finds faces by the network in a file."""

    def __init__(self, path: Path) -> None:
        """Raises UserError when onnxruntime or the file is missing, or it is no such network."""
        if not path.is_file():
            raise UserError(f"--detector {path} is no file; name an SCRFD detector (.onnx), or say `crops`.")
        self._path = path
        self._session = onnx_target.open_session(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape
        widths = sorted(one.shape[-1] if one.shape and isinstance(one.shape[-1], int) else 0 for one in outputs)
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or widths != sorted(WIDTHS * len(STRIDES)):
            raise UserError(
                f"{path} is no SCRFD detector with landmarks: it should take one RGB image and give scores, boxes and "
                f"landmarks (1, 4 and 10 numbers) at {len(STRIDES)} strides, not outputs of {widths} numbers."
            )
        self._input = inputs[0].name
        fixed = shape[2] if isinstance(shape[2], int) and shape[2] == shape[3] else 0
        self._sides = (fixed,) if fixed else SIDES

    def find(self, photo: Image.Image) -> list[Face]:
        """The faces of an RGB photo, largest first. Raises UserError when the network fails."""
        for side in self._sides:
            scale = side / max(photo.size)
            small = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
            pixels = np.zeros((side, side, 3), np.float32)
            pixels[: small[1], : small[0]] = np.asarray(photo.resize(small, Image.Resampling.BILINEAR))
            found = decode(self._run((pixels - 127.5) / 128), side)
            if found:
                stretch = np.array(photo.size) / small
                faces = [Face(one.box * np.tile(stretch, 2), one.points * stretch, one.score) for one in found]
                return sorted(faces, key=lambda one: -area(one.box))
        return []

    def _run(self, pixels: np.ndarray) -> list[np.ndarray]:
        try:
            found: list[np.ndarray] = self._session.run(None, {self._input: pixels.transpose(2, 0, 1)[None]})
        except Exception as error:  # onnxruntime's own exception classes are not public
            raise UserError(f"{self._path} failed on a photo: {onnx_target.first_line(error)}") from error
        return found


def decode(outputs: list[np.ndarray], side: int) -> list[Face]:
    """The faces that an SCRFD network's outputs tell of a square image of `side` pixels, best first.

    outputs, in any order: for each stride, of every cell's anchors row by row, scores [n, 1], distances to the four
    sides [n, 4] and to the five points [n, 10], in strides from the cell's corner. Raises UserError for others.
    """
    flat = [one.reshape(-1, one.shape[-1]) for one in outputs]
    # The finer the stride, the more cells.
    scores, boxes, points = (
        sorted((one for one in flat if one.shape[1] == width), key=len, reverse=True) for width in WIDTHS
    )
    found = []
    for stride, score, box, point in zip(STRIDES, scores, boxes, points, strict=True):
        cells = side // stride
        anchors = len(score) // cells**2
        if not len(score) == len(box) == len(point) == anchors * cells**2 > 0:
            raise UserError(
                f"The detector is no SCRFD: of {cells}x{cells} cells it tells {len(score)} scores, {len(box)} boxes, "
                f"{len(point)} landmarks; name another one."
            )
        rows, columns = np.divmod(np.repeat(np.arange(cells**2), anchors), cells)
        for place in np.flatnonzero(score[:, 0] >= SCORE):
            # The networks count pixels by their centres.
            centre = np.array([columns[place], rows[place]]) * stride + 0.5
            near, far = box[place].reshape(2, 2) * stride
            landmarks = centre + point[place].reshape(5, 2) * stride
            found.append(Face(np.concatenate([centre - near, centre + far]), landmarks, float(score[place, 0])))
    return _apart(sorted(found, key=lambda one: -one.score))


def _apart(faces: list[Face]) -> list[Face]:
    """Each face once: the best of those that overlap."""
    kept: list[Face] = []
    for face in faces:
        if all(overlap(face.box, other.box) <= OVERLAP for other in kept):
            kept.append(face)
    return kept


def area(box: np.ndarray) -> float:
    """Of a box [4]; 0 where it has none."""
    return float(np.prod(np.maximum(box[2:] - box[:2], 0)))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes [4]."""
    both = area(np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])]))
    either = area(a) + area(b) - both
    return both / either if either > 0 else 0.0
