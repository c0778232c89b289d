"""What is painted on the head: eyes, brows, nostrils, mouth, beard, lines and glasses.

Each function works in a fixed window that holds its feature in any pose, on the surface's colour (image [b, 3, H, W],
linear light) and on `light`, a [b, H, W] factor for what darkens every channel alike.
"""

import numpy as np

from advcloak_jax.data.face_canvas import Grid, darken, paint, spot
from advcloak_jax.data.face_model import Values
from advcloak_jax.data.face_shape import Head

_WHITE = np.array([0.80, 0.77, 0.75], np.float32)[:, None, None]
_TEETH = np.array([0.80, 0.76, 0.68], np.float32)[:, None, None]
_INSIDE = np.array([0.10, 0.02, 0.02], np.float32)[:, None, None]
_PUPIL = np.array([0.012, 0.010, 0.010], np.float32)[:, None, None]
_LASH = np.array([0.030, 0.020, 0.018], np.float32)[:, None, None]
_GLINT = np.array([1.3, 1.3, 1.3], np.float32)[:, None, None]


def paint_eyes(grid: Grid, head: Head, v: Values, image: np.ndarray, light: np.ndarray) -> None:
    """Both eyes: lids, white, iris, pupil, glint, lashes, crease and bag."""
    for side in (-1.0, 1.0):
        part = grid.window(-32, 14, *((-44, 0) if side < 0 else (0, 44)))
        picture, shadow = image[part], light[part]
        x = head.face_x[part] * side - v["eye_spacing"]
        y = head.face_y[part] - v["eye_height"] - v["eye_uneven"] * side
        y += x * v["eye_tilt"]
        t = x / v["eye_width"]
        inside = 1.0 - t * t
        arch = np.maximum(inside, 0.0)
        lean = arch * (1.0 + v["eye_skew"] * t)
        upper = lean * (-v["eye_upper"] * v["eyes_open"])
        lower = arch * (v["eye_lower"] * np.minimum(v["eyes_open"] + 0.2, 1.0))

        fade = np.clip(1.35 - t * t, 0.0, 1.0)
        crease = y - (upper * 0.85 - v["eye_crease"])
        darken(shadow, spot(crease, 0.0 * crease, 1.5, 1.0) * fade * 0.42)
        lid = spot(x, y + v["eye_upper"] + 1.5, v["eye_width"] * 1.25, 4.5)
        darken(shadow, lid * 0.16)
        bag = y - (lower + 2.6)
        darken(shadow, spot(bag, 0.0 * bag, 1.6, 1.0) * fade * v["eye_bag"])

        opening = grid.edge(y - upper, 1.0) * grid.edge(lower - y, 1.0)
        opening *= np.clip(inside * 4.0, 0.0, 1.0)
        paint(picture, opening, _WHITE * (0.75 + 0.25 * arch)[:, None])
        eye_x, eye_y = x - v["gaze_x"] * side, y + 0.5 - v["gaze_y"]
        square = eye_x * eye_x + eye_y * eye_y
        radius = v["iris_size"]
        iris = grid.edge((radius * radius - square) / (2.0 * radius), 1.0)
        iris *= opening
        ring = np.clip(1.25 - 0.8 * square / (radius * radius), 0.25, 1.0)
        paint(picture, iris, v["iris"] * ring[:, None])
        pupil = radius * 0.45
        paint(picture, grid.edge((pupil * pupil - square) / (2.0 * pupil), 1.0) * opening, _PUPIL)
        glint = spot(eye_x - side * v["light_x"] * 1.6 - 0.3 * side, eye_y + 1.3, 1.3, 1.3)
        paint(picture, glint * opening * 0.8, _GLINT)
        darken(shadow, np.clip((upper + 2.6 - y) * 0.3, 0.0, 1.0) * opening * 0.5)

        lash = grid.edge(v["eye_lash"] - np.abs(y - upper), 1.0)
        lash *= np.clip(1.25 - t * t, 0.0, 0.25) * 4.0
        paint(picture, lash * 0.85, _LASH)
        rim = grid.edge(0.35 - np.abs(y - lower), 1.0)
        rim *= np.clip(1.15 - t * t, 0.0, 0.15) * 3.0
        paint(picture, rim, _LASH)


def paint_brows(grid: Grid, head: Head, v: Values, image: np.ndarray, strands: np.ndarray) -> None:
    """Both brows, tapered and hairy."""
    for side in (-1.0, 1.0):
        part = grid.window(-44, 2, *((-44, 0) if side < 0 else (0, 44)))
        x = head.face_x[part] * side - v["eye_spacing"] - v["brow_shift"]
        t = x / v["brow_length"]
        bend = 1.0 - t * t
        y = head.face_y[part] - v["eye_height"] + v["brow_gap"] + v["brow_raise"]
        y += v["brow_arch"] * bend
        y += x * (v["brow_slope"] + v["frown"])
        thick = v["brow_thickness"] * (1.0 - v["brow_taper"] * t)
        cover = grid.edge(thick - np.abs(y) + strands[part] * 1.2, 1.5)
        cover *= np.clip(bend * 2.5, 0.0, 1.0)
        cover *= v["brow_density"]
        paint(image[part], cover, v["brow"])


def paint_nose(grid: Grid, head: Head, v: Values, light: np.ndarray) -> None:
    """Nostrils, the shadow under the tip, the creases of the wings, and the shadow the nose casts."""
    part = grid.window(-18, 36, -36, 36)
    shadow = light[part]
    x = head.face_x[part] - v["nose_bend"] - head.turn * v["nose_out"] * 0.55
    y = head.face_y[part] - v["nose_tip"] - head.nod * v["nose_out"] * 0.5
    darken(shadow, spot(x, y - 6.0, v["nose_width"] * 1.15, 3.6) * 0.34)
    darken(shadow, spot(x + v["light_x"] * 11.0, y + 1.0, 8.0, 13.0) * np.minimum(np.abs(v["light_x"]) * 0.3, 0.35))
    for side in (-1.0, 1.0):
        dx = x * side - v["nose_width"] * 0.50
        hole = spot(dx, y - 4.2 + v["nostril_lift"] + dx * 0.25, v["nostril"] * 1.9, v["nostril"] * 1.25)
        darken(shadow, np.minimum(hole * 1.3, 0.85))
        wing = x * side - v["nose_width"] * (1.06 - 0.0009 * (y + 0.5) ** 2 * v["nose_width"])
        darken(shadow, spot(wing, y - 1.0, 1.5, 5.0) * 0.36)


def paint_beard(grid: Grid, head: Head, v: Values, image: np.ndarray, strands: np.ndarray) -> None:
    """Beard and moustache; below the mouth in the order of painting, so that the lips stay free."""
    rows = np.flatnonzero((v["beard"] + v["moustache"]).ravel() > 0)
    if not len(rows):
        return
    part = grid.window(-24, 53, -57, 57)
    picture = image[rows][part]
    x, y, grain = (array[rows][part] for array in (head.face_x, head.face_y, strands))
    line = 36.0 - 34.0 * np.minimum(head.across[rows][part], 1.3)
    cover = grid.edge(y - line + grain * 6.0, 4.0)
    cover *= v["beard"][rows] * (1.0 + grain)
    dx, dy = x / (v["mouth_width"][rows] * 1.15), y - v["mouth_height"][rows] + 5.0
    lip = spot(dx, (dy - dx * dx * 4.0) / 4.2, 1.0, 1.0) * 1.8
    lip *= v["moustache"][rows] * (1.0 + grain)
    np.maximum(cover, np.minimum(lip, 0.9), out=cover)
    cover *= head.coverage[rows][part]
    paint(picture, np.clip(cover, 0.0, 1.0), v["hair"][rows] * 0.8)
    image[(rows, *part)] = picture


def paint_mouth(grid: Grid, head: Head, v: Values, image: np.ndarray, light: np.ndarray) -> None:
    """Lips, teeth and the dark between them; smile and opening move them."""
    part = grid.window(14, 53, -30, 30)
    picture, shadow = image[part], light[part]
    x = head.face_x[part] - head.turn * 2.5
    y = head.face_y[part] - v["mouth_height"] - head.nod * 2.5
    smile = np.clip(v["smile"], -0.6, 1.4)
    t = x / (v["mouth_width"] * (1.0 + 0.16 * smile))
    square = t * t
    arch = np.maximum(1.0 - square, 0.0)
    y += (v["mouth_corner"] + 2.4 * smile) * square + x * v["mouth_slant"]
    dip = np.maximum(1.0 - square * 11.0, 0.0)
    top = -v["lip_upper"] * arch * (1.0 - v["lip_cupid"] * dip * dip) * (1.0 - 0.12 * smile)
    gap = v["mouth_open"] * arch
    bottom = gap + v["lip_lower"] * arch * (1.0 + 0.35 * square)
    inside = np.clip((1.0 - square) * 5.0, 0.0, 1.0)

    lips = grid.edge(y - top, 1.2) * grid.edge(bottom - y, 1.4)
    lips *= inside
    paint(picture, lips * 0.95, v["lip"])
    hole = grid.edge(y.copy(), 1.0) * grid.edge(gap - y, 1.0) * inside * np.minimum(v["mouth_open"], 1.0)
    paint(picture, hole, _INSIDE)
    teeth = grid.edge(np.minimum(gap * 0.8, 3.2) - y, 1.0) * hole * np.clip(v["mouth_open"] - 0.7, 0.0, 1.0)
    paint(picture, teeth, _TEETH * np.clip(1.1 - square, 0.3, 1.0)[:, None])
    darken(shadow, spot(y - 0.2, 0.0 * y, 1.5, 1.0) * np.clip(1.25 - square, 0.0, 1.0) * (1.0 - hole) * 0.6)
    darken(shadow, grid.edge(-y, 2.0) * lips * 0.22)
    shadow += spot(x - v["light_x"] * 3.0, y - gap - v["lip_lower"] * 0.5, v["mouth_width"] * 0.6, 2.2) * lips * 0.22
    darken(shadow, spot(x, y - bottom - 2.8, v["mouth_width"] * 0.75, 2.8) * 0.22)
    corner = np.abs(t) - 1.04
    darken(shadow, spot(corner * v["mouth_width"], y, 2.0, 2.0) * 0.35)


def paint_lines(grid: Grid, head: Head, v: Values, light: np.ndarray) -> None:
    """Folds from the nose to the mouth's corners, and the forehead's lines."""
    for side in (-1.0, 1.0):
        part = grid.window(4, 46, *((-32, 0) if side < 0 else (0, 32)))
        y = head.face_y[part] - v["nose_tip"]
        x = head.face_x[part] * side - v["nose_width"] - 2.0 - y * 0.34
        depth = np.clip(v["fold"] * (0.7 + 0.9 * v["smile"]), 0.0, 0.45)
        darken(light[part], spot(x, y - 10.0, 2.2, 13.0) * depth)
    part = grid.window(-46, -14, -30, 30)
    y = head.face_y[part] + 28.0 + v["brow_raise"] * -0.5
    curve = y - head.face_x[part] * head.face_x[part] * 0.004
    depth = np.maximum(v["forehead_lines"] * (1.0 + 0.4 * v["brow_raise"]), 0.0)
    width = spot(head.face_x[part], y, 24.0, 12.0) * depth
    for height in (-4.0, 1.5):
        line = curve - height
        darken(light[part], spot(line, 0.0 * line, 1.3, 1.0) * width)


def paint_glasses(grid: Grid, head: Head, v: Values, image: np.ndarray) -> None:
    """Frames, bridge and temples, round to square, of those who wear them."""
    rows = np.flatnonzero(v["glasses"].ravel() > 0)
    if not len(rows):
        return
    part = grid.window(-36, 24, -57, 57)
    picture = image[rows][part]
    x, y = head.face_x[rows][part], head.face_y[rows][part]
    width, height = 9.5 + 2.5 * v["glasses_width"][rows], 6.0 + 3.5 * v["glasses_height"][rows]
    square, spacing = v["glasses_square"][rows], np.maximum(v["eye_spacing"][rows], width + 2.5)
    y = y - v["eye_height"][rows] - 0.8 - head.nod[rows] * 3.0
    x = x - head.turn[rows] * 3.5
    across, down = (np.abs(x) - spacing) / width, y / height
    across *= across
    down *= down
    level = (across + down) * (1.0 - square) + (across * across + down * down) * square - 1.0
    rim = level * (height / (2.0 + 2.0 * square))
    thick = 0.7 + 0.7 * v["glasses_shade"][rows]
    frame = grid.edge(thick - np.abs(rim), 1.0)
    outside = np.clip(rim, 0.0, 1.0)
    bar = grid.edge(thick - np.abs(y + 1.2), 1.0) * outside * head.coverage[rows][part]
    np.maximum(frame, bar, out=frame)
    paint(picture, np.clip(-rim, 0.0, 1.0) * (0.12 * v["glare"][rows]), _GLINT)
    paint(picture, frame * 0.92, v["frame"][rows])
    image[(rows, *part)] = picture
