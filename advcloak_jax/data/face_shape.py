"""The head as a solid: pose, outline, surface normals, relief, ears, neck and hair.

The head is a stack of circles x^2 + z^2 = w(y)^2 whose radius w follows the skull above and the jaw below, seen
without perspective. Turning a circle about its axis leaves the outline as it is and slides the surface, so the face
frame (X, V) of a pixel is one rotation away from its view frame (x, y). As in aligned crops, turning moves the outline,
not the face.
"""

import dataclasses

import numpy as np

from advcloak_jax.data.face_canvas import Grid, paint, spot
from advcloak_jax.data.face_model import TEXTURE_SIZE, TEXTURE_SPAN, Values

FACE_DEPTH = 34.0  # how far in front of the neck's axis the features lie; the point that alignment holds still
WIDEST = -14.0  # the height at which the head is widest


@dataclasses.dataclass(frozen=True)
class Head:
    """A posed head on the grid; every array [b, H, W] float32."""

    x: np.ndarray
    y: np.ndarray
    face_x: np.ndarray
    face_y: np.ndarray
    across: np.ndarray  # (X / head width)^2, continued past 1 on the back of the head
    normal: tuple[np.ndarray, np.ndarray, np.ndarray]  # not of unit length: z is the depth
    coverage: np.ndarray
    turn: np.ndarray  # sine of yaw, [b, 1, 1]
    nod: np.ndarray  # sine of pitch, [b, 1, 1]


def _sine_cosine(half_tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    square = half_tangent * half_tangent
    return 2 * half_tangent / (1 + square), (1 - square) / (1 + square)


def pose_head(grid: Grid, v: Values) -> Head:
    """Place the head: view frame, face frame, normals and coverage of every pixel."""
    (turn, turn_cos), (nod, nod_cos), (roll, roll_cos) = (_sine_cosine(v[name]) for name in ("yaw", "pitch", "roll"))
    column, row = (grid.x - v["move_x"]) / v["zoom"], (grid.y - v["move_y"]) / v["zoom"]
    x = (roll_cos * column + turn * FACE_DEPTH) + roll * row
    y = roll_cos * row - roll * column

    width = v["head_width"]
    down = y - WIDEST
    skull = np.minimum(down, 0.0) / v["head_top"]
    jaw = np.maximum(down, 0.0) / v["head_bottom"]
    skull_square, jaw_square = skull * skull, jaw * jaw
    # w^2 = W^2 (1 - t^2) on the skull (t < 0) and W^2 (1 - t^2)(1 + j t^2) on the jaw: j < 0 pointed, j > 0 square.
    radius = (1.0 - skull_square - jaw_square) * (1.0 + v["jaw"] * jaw_square)
    radius *= width * width
    slope = jaw * (v["jaw"] - 1.0 - 2.0 * v["jaw"] * jaw_square) / v["head_bottom"]
    slope -= skull / v["head_top"]
    slope *= width * width  # half the derivative of w^2

    square = radius - x * x
    length = np.sqrt(x * x + slope * slope)
    coverage = grid.edge(square / (2.0 * length + 1e-3), 1.2)
    depth = np.sqrt(np.maximum(square, 0.0))
    face_x = x * turn_cos - depth * turn
    face_y = y * nod_cos - (depth - FACE_DEPTH) * nod
    across = face_x / width
    across *= across
    across = np.where(x * turn + depth * turn_cos < 0.0, 2.0 - across, across)
    return Head(x, y, face_x, face_y, across, (x, -slope, depth), coverage, turn, nod)


def skin_pigment(grid: Grid, head: Head, maps: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Sample skin maps [m, T, T] (map index[b] for image b) where the surface is, bilinearly, [b, H, W]."""
    scale, middle = TEXTURE_SIZE / TEXTURE_SPAN, TEXTURE_SIZE / 2 - 0.5
    column = np.clip(head.face_x * scale + middle, 0.0, TEXTURE_SIZE - 1.001)
    row = np.clip(head.face_y * scale + middle, 0.0, TEXTURE_SIZE - 1.001)
    left, top = column.astype(np.int32), row.astype(np.int32)
    column -= left
    row -= top
    place = top * TEXTURE_SIZE + left
    place += (index * TEXTURE_SIZE * TEXTURE_SIZE).astype(np.int32)[:, None, None]
    flat = maps.reshape(-1)
    upper, right = flat.take(place), flat.take(place + 1)
    upper += (right - upper) * column
    place += TEXTURE_SIZE
    lower, right = flat.take(place), flat.take(place + 1)
    lower += (right - lower) * column
    lower -= upper
    lower *= row
    upper += lower
    return upper


def add_relief(grid: Grid, head: Head, v: Values) -> np.ndarray:
    """Bend the head's normals by nose, brow, sockets, cheeks and chin, in place; returns the height [b, H, W]."""
    height = np.zeros_like(head.x)

    def hill(
        window: tuple, amount: np.ndarray, x: np.ndarray, y: np.ndarray, rx: np.ndarray | float, ry: np.ndarray | float
    ) -> None:
        part = grid.window(*window)
        height[part] += amount * spot(head.face_x[part] - x, head.face_y[part] - y, rx, ry)

    middle = np.zeros_like(v["nose_bend"])
    for side in (-1.0, 1.0):
        columns = (-50, 8) if side < 0 else (-8, 50)
        eye_x = side * v["eye_spacing"]
        hill((-34, 18, *columns), -v["eye_socket"], eye_x * 0.92, v["eye_height"], 12.5, 10.0)
        hill((-40, 2, *columns), v["brow_ridge"], eye_x * 0.9, v["eye_height"] - v["brow_gap"], 14.0, 6.5)
        hill((-14, 46, *columns), v["cheekbone"], side * v["head_width"] * 0.60, v["eye_height"] + 21, 15.0, 15.0)
        wing = side * v["nose_width"] * 0.86 + v["nose_bend"] + head.turn * v["nose_out"] * 0.6
        hill((-4, 34, -30, 30), v["nose_out"] * 0.32, wing, v["nose_tip"] + 1.5, v["nose_width"] * 0.62, 5.2)
        hill((22, 53, -28, 28), v["chin"] * 0.4, middle + side * 6.0, v["head_bottom"] + WIDEST - 8, 8.0, 8.0)
    tip_x, tip_y = v["nose_bend"] + head.turn * v["nose_out"], v["nose_tip"] + head.nod * v["nose_out"]
    middle_x = head.turn * v["nose_out"] * 0.5
    hill((-30, 36, -32, 32), v["nose_out"] * 0.8, tip_x, tip_y, v["nose_ball"] * 1.65, 8.0)
    hill((-40, 36, -24, 24), v["nose_out"] * 0.55, middle_x, v["nose_tip"] - 9, v["nose_bridge"] * 1.45, 20.0)
    hill((-26, 22, -20, 20), v["nose_hump"], middle_x, v["nose_tip"] - 13, v["nose_bridge"] * 1.3, 6.0)
    hill((8, 44, -18, 18), -v["philtrum"], v["nose_bend"] * 0.5, v["mouth_height"] - 8, 3.4, 6.5)
    hill((22, 53, -30, 30), -v["chin"] * 0.8, middle, v["mouth_height"] + 9.5, 13.0, 5.0)
    hill((20, 53, -30, 30), v["chin"], middle, v["head_bottom"] + WIDEST - 9, 13.0, 9.0)
    cleft = -np.maximum(v["chin_cleft"], 0.0)
    hill((24, 53, -18, 18), cleft, middle, v["head_bottom"] + WIDEST - 9, 2.6, 7.0)

    across, down, depth = head.normal
    scale = 0.5 / grid.pixel
    across[:, :, 1:-1] -= (height[:, :, 2:] - height[:, :, :-2]) * (scale * depth[:, :, 1:-1])
    down[:, 1:-1] -= (height[:, 2:] - height[:, :-2]) * (scale * depth[:, 1:-1])
    return height


def front_hair(grid: Grid, head: Head, v: Values, strands: np.ndarray) -> np.ndarray:
    """Coverage of the hair that grows before the outline: down to the hairline, [b, H, W]."""
    across = np.minimum(head.across, 1.2)
    line = across * (1.0 - across)
    line *= -4.0 * v["hair_recession"]
    across *= across
    across *= across
    across *= v["sideburn"] - v["hairline"]
    line += across
    line += head.face_x * (v["hair_lean"] / v["head_width"])
    line += v["hairline"]
    line -= head.face_y
    line += strands * 5.0
    return grid.edge(line, 2.4)


def back_hair(grid: Grid, head: Head, v: Values, strands: np.ndarray) -> np.ndarray:
    """Coverage of the hair's outline behind the head, [b, H, W]."""
    width = v["head_width"] + v["hair_volume"]
    skull = np.minimum(head.y - WIDEST, 0.0) / (v["head_top"] + v["hair_volume"])
    skull *= skull
    room = (1.0 - skull) * (width * width)
    room -= head.x * head.x
    room /= 2.0 * width
    room += strands * 2.0
    coverage = grid.edge(room, 1.6)
    coverage *= grid.edge(v["hair_length"] - head.y + strands * 6.0, 4.0)
    return coverage


def paint_body(grid: Grid, head: Head, v: Values, image: np.ndarray, outline: np.ndarray) -> None:
    """Paint ears, neck and clothes on image [b, 3, H, W] and add them to the outline [b, H, W]."""
    low = grid.window(14, 53, -57, 57)
    x, y = np.abs(head.x[low]), head.y[low]
    neck = grid.edge(v["head_width"] * 0.66 - x, 2.0) * grid.edge(y - 30.0, 6.0)
    paint(image[low], neck, v["skin"] * 0.8)
    cloth = grid.edge(y + x * 0.3 - 60.0, 1.5)
    cloth *= 1.0 - outline[low] * (1.0 - neck)
    paint(image[low], cloth, v["cloth"])
    outline[low] = np.maximum(outline[low], np.maximum(neck, cloth))
    for side in (-1.0, 1.0):
        edge = grid.window(-34, 38, *((-57, -8) if side < 0 else (8, 57)))
        dx = head.x[edge] * side - (v["head_width"] + v["ear_out"] - 3.0) + 4.0 * side * head.turn
        dy = head.y[edge] - 1.0 + dx * 0.15 - head.nod * 12
        radius = v["ear_size"]
        shape = (1.0 - (dx * dx) / (radius * radius * 0.2) - (dy * dy) / (radius * radius)) * (radius * 0.25)
        ear = grid.edge(shape, 1.4)
        inner = spot(dx - 0.6, dy, radius * 0.38, radius * 0.7)
        paint(image[edge], ear, v["skin"] * 0.92)
        paint(image[edge], inner * 0.55 * ear, v["skin"] * 0.4)
        outline[edge] = np.maximum(outline[edge], ear)
