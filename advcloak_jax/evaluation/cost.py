"""What masks cost (Table 3): seconds to make a person's mask, and to make and apply it for each photo."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from advcloak_jax import images
from advcloak_jax.cloaks.cloak import Cloak, Kind


class MakingTime(NamedTuple):
    """Seconds of a first call, which compiles, and of the same call again, for so many persons of so many images."""

    first: float
    again: float
    persons: int
    images: int


class Cost(NamedTuple):
    """A row of Table 3, in seconds; None: not timed.

    first_call: of the first batch, compilation included. per_person: warmed up, for masks of persons; 0 where no mask
    is made for a person. per_image: warmed up; making (masks of images) and applying.
    """

    source: str
    method: str
    kind: Kind
    first_call: float | None
    per_person: float | None
    per_image: float | None


def time_making(cloak: Cloak, faces: np.ndarray, key: jax.Array) -> MakingTime:
    """Make masks of faces [P, N, H, W, 3] uint8 twice."""
    unit = images.to_unit(jax.numpy.asarray(faces))
    jax.block_until_ready(unit)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(cloak.make_masks(unit, key))
        seconds.append(time.perf_counter() - began)
    return MakingTime(seconds[0], seconds[1], *faces.shape[:2])


def cost(source: str, cloak: Cloak, making: MakingTime | None, applying: float) -> Cost:
    """The row of a cloak; applying: seconds per image of putting on a mask that is there."""
    if making is None:
        return Cost(source, cloak.name, cloak.kind, None, None, None)
    per_person = making.again / making.persons if cloak.kind == "person" else 0.0
    per_image = applying + (making.again / (making.persons * making.images) if cloak.kind == "image" else 0.0)
    return Cost(source, cloak.name, cloak.kind, making.first, per_person, per_image)


def text_table(costs: Sequence[Cost]) -> str:
    """Table 3 in aligned columns."""
    lines = [["Type of mask", "Method", "Source model", "First call, s", "Per person, s", "Per image, s"]]
    for kind, title in (("image", "Image-specific"), ("person", "Person-specific"), ("universal", "Universal")):
        for row in (row for row in costs if row.kind == kind):
            figures = ["-" if x is None else f"{x:.4f}" for x in (row.first_call, row.per_person, row.per_image)]
            lines.append([title, row.method, row.source, *figures])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{cell:{'<' if i < 3 else '>'}{w}}" for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )
