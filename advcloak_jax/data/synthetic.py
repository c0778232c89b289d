"""Synthetic faces: people who do not exist, drawn from a seed; the package's embedded data set.

An identity is a vector of numbers (face_model), drawn as a shaded head (face_shape, face_features) and photographed
here: light, exposure, white balance, contrast, blur and noise differ from photo to photo, far more than mean colour
differs from person to person. Who is who shows in geometry and fine detail.
"""

from collections.abc import Callable, Sequence

import numpy as np

from advcloak_jax.data import face_features as features
from advcloak_jax.data import face_model as model
from advcloak_jax.data.face_canvas import Grid, paint, value_noise
from advcloak_jax.data.face_model import Values
from advcloak_jax.data.face_shape import Head, add_relief, back_hair, front_hair, paint_body, pose_head, skin_pigment
from advcloak_jax.data.faceset import FaceSet

BLOCK = 8  # images drawn at once: their arrays fit the cache of one core


def render(
    identities: Sequence[int] | np.ndarray,
    images_per_identity: int,
    *,
    seed: int,
    image_size: int = 112,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Draw K = `images_per_identity` photos of each of I identities: [I * K, size, size, 3] uint8, identity-major.

    An image depends on (seed, identity number, index within the identity, image_size) and on nothing else.
    `progress` is told the number of images done so far.
    Raises ValueError for a negative number or an image size below 16.
    """
    numbers = np.asarray(identities, np.int64).reshape(-1)
    if images_per_identity < 0 or seed < 0 or (len(numbers) and numbers.min() < 0):
        raise ValueError("identities, images_per_identity and seed must not be negative")
    if image_size < 16:
        raise ValueError("image_size must be at least 16")
    total = len(numbers) * images_per_identity
    images = np.empty((total, image_size, image_size, 3), np.uint8)
    for start in range(0, total, BLOCK):
        place = np.arange(start, min(start + BLOCK, total))
        owner, shot = numbers[place // images_per_identity], place % images_per_identity
        images[place[0] : place[-1] + 1] = _draw_block(seed, owner, shot, image_size)
        if progress is not None:
            progress(int(place[-1]) + 1)
    return images


def synthetic_faces(
    identities: int,
    images_per_identity: int,
    *,
    seed: int,
    image_size: int = 112,
    progress: Callable[[int], None] | None = None,
) -> FaceSet:
    """A FaceSet of identities 0 ... identities - 1, named synthetic/00000 and so on; see `render`."""
    return FaceSet(
        images=render(range(identities), images_per_identity, seed=seed, image_size=image_size, progress=progress),
        identity=np.repeat(np.arange(identities, dtype=np.int32), images_per_identity),
        names=tuple(f"synthetic/{identity:05d}" for identity in range(identities)),
    )


def _draw_block(seed: int, owner: np.ndarray, shot: np.ndarray, size: int) -> np.ndarray:
    """Images of identity owner[b], index shot[b], [b, size, size, 3] uint8."""
    people, index = np.unique(owner, return_inverse=True)
    vectors = np.stack([model.identity_vector(seed, int(person)) for person in people])
    maps = np.stack([model.skin_map(seed, int(person)) for person in people])
    # Each image draws, in this order: its variation, lattices for wall and hair, and last (its length depends on the
    # size) the sensor's noise.
    streams = [model.generator(seed, int(o), int(s) + 1) for o, s in zip(owner, shot, strict=True)]
    values = model.block_values(vectors[index], np.stack([model.variation_vector(rng) for rng in streams]))
    wall = np.stack([rng.random(model.WALL_LATTICE, np.float32) for rng in streams])
    hair = np.stack([rng.random(model.HAIR_LATTICE, np.float32) for rng in streams])
    curls = np.stack([rng.random(model.CURL_LATTICE, np.float32) for rng in streams])
    grain = np.stack([np.frombuffer(rng.bytes(3 * size * size), np.uint8) for rng in streams])

    grid = Grid(size)
    head = pose_head(grid, values)
    pigment = skin_pigment(grid, head, maps, index)
    strands = value_noise(hair, size)
    curly = np.flatnonzero(values["curly"].ravel() > 0)
    strands[curly] = value_noise(curls[curly], size)
    strands -= np.float32(0.5)
    scene = _light(grid, head, values, *_surface(grid, head, values, pigment, strands), value_noise(wall, size))
    return _photograph(grid, values, scene, grain.reshape(-1, 3, size, size))


def _surface(
    grid: Grid, head: Head, v: Values, pigment: np.ndarray, strands: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour [b, 3, H, W], light factor [b, H, W] and coverage [b, H, W] of the person before the wall."""
    outline = back_hair(grid, head, v, strands)
    image = np.empty((len(head.x), 3, *head.x.shape[1:]), np.float32)
    image[...] = v["hair"]
    paint_body(grid, head, v, image, outline)
    paint(image, head.coverage, v["skin"])
    light = 1.0 - pigment * head.coverage
    height = add_relief(grid, head, v)
    light += np.minimum(height, 0.0) * 0.045  # hollows see less of the sky
    features.paint_lines(grid, head, v, light)
    features.paint_nose(grid, head, v, light)
    features.paint_beard(grid, head, v, image, strands)
    features.paint_mouth(grid, head, v, image, light)
    features.paint_eyes(grid, head, v, image, light)
    features.paint_brows(grid, head, v, image, strands)
    np.maximum(outline, head.coverage, out=outline)
    features.paint_glasses(grid, head, v, image)
    hair = front_hair(grid, head, v, strands)
    hair *= outline
    paint(image, hair, v["hair"])
    light += hair * (1.0 + strands * 1.6 - light)
    return image, light, outline


def _light(
    grid: Grid, head: Head, v: Values, image: np.ndarray, light: np.ndarray, outline: np.ndarray, wall: np.ndarray
) -> np.ndarray:
    """Shade the person and put them before the wall; linear light, [b, 3, H, W]."""
    nx, ny, nz = head.normal
    lx, ly = v["light_x"], v["light_y"]
    away = 1.0 / np.sqrt(1.0 + lx * lx + ly * ly)
    length = np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-3)
    facing = (nx * lx + ny * ly + nz) / length
    facing *= away
    shine = facing * 0.72 + nz / length * 0.40  # about the cosine to the direction half-way between lamp and lens
    np.clip(shine, 0.0, 1.0, out=shine)
    for _ in range(4):
        shine *= shine
    shine *= outline * (0.10 * v["oil"])
    facing *= 0.9
    facing += 0.1
    np.maximum(facing, 0.0, out=facing)
    ambient = 0.25 + 0.40 * v["ambient"]
    facing *= light
    light *= ambient
    shade = v["fill"] * light[:, None]
    shade += (v["key"] * (1.15 * (1.0 - ambient))[:, None]) * facing[:, None]
    image *= shade
    image += shine[:, None]

    wall = wall * 0.8 + ((v["wall_lean_x"] - 0.5) * 0.02) * grid.x + ((v["wall_lean_y"] - 0.5) * 0.02) * grid.y
    back = (v["wall2"] - v["wall"]) * wall[:, None]
    back += v["wall"]
    image -= back
    image *= outline[:, None]
    image += back
    image *= v["white"]
    return image


def _photograph(grid: Grid, v: Values, image: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """Blur, gamma, contrast, saturation and noise: linear light [b, 3, H, W] in, uint8 [b, H, W, 3] out."""
    image = _blur(grid, image, 0.15 + 1.6 * v["blur"] * v["blur"])
    np.maximum(image, 0.0, out=image)
    np.sqrt(image, out=image)
    grey = image[:, :1] * 0.3 + image[:, 1:2] * 0.59
    grey += image[:, 2:] * 0.11
    colour = np.clip(v["saturation"], 0.0, 1.5)[:, None]
    contrast = (255.0 * v["contrast"])[:, None]
    image *= colour * contrast
    grey *= (1.0 - colour) * contrast
    grey += (127.5 * (1.0 - v["contrast"]) + 255.0 * v["offset"])[:, None]
    image += grey
    # Averaging k x k pixels into one divides white noise by k: smaller pictures are less noisy.
    strength = (2.0 + 26.0 * v["noise"] * v["noise"]) / 127.5 * min(1.0, 1.0 / grid.pixel)
    noise = grain.astype(np.float32)
    noise -= 127.5
    noise *= strength[:, None]
    image += noise
    np.clip(image, 0.0, 255.0, out=image)
    return np.ascontiguousarray(image.astype(np.uint8).transpose(0, 2, 3, 1))


def _blur(grid: Grid, image: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Blur by a variance in squared units, [b, 1, 1]; three-tap kernels at distances 1, 2, 4 until it is used up."""
    left = variance[:, None] / (grid.pixel * grid.pixel)
    for step in (1, 2, 4):
        weight = np.minimum(left / (2 * step * step), 0.25).astype(np.float32)
        left = left - weight * (2 * step * step)
        if not weight.any():
            break
        for axis in (2, 3):
            image = _three_taps(image, weight, step, axis)
    return image


def _three_taps(image: np.ndarray, weight: np.ndarray, step: int, axis: int) -> np.ndarray:
    """[w, 1 - 2w, w] at distance `step` along an axis; what lies outside equals the edge's own pixel."""
    ahead = [slice(None)] * 4
    behind = [slice(None)] * 4
    ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
    change = image[tuple(ahead)] - image[tuple(behind)]
    change *= weight
    result = image.copy()
    result[tuple(behind)] += change
    result[tuple(ahead)] -= change
    return result
