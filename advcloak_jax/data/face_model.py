"""What a synthetic face is made of: the numbers that make an identity and the numbers that make one photo of it.

Lengths are in units of 1/112 of the image side, in the face's own frame: x to the right, y down, origin between eyes
and mouth, so that an upright face has its eyes near (-18, -8) and (18, -8), the nose tip near (0, 13) and the mouth
near (0, 32).
Every draw uses uniform variates and exactly rounded arithmetic only, so a seed means the same face on every machine.
"""

import numpy as np

Values = dict[str, np.ndarray]
"""Named numbers of a block of images, each [b, 1, 1] float32 (colours [b, 3, 1, 1])."""

# Identity traits with a bell-shaped spread: name -> (mean, standard deviation). Bounded at three deviations.
TRAITS: dict[str, tuple[float, float]] = {
    "head_width": (39.0, 2.4),
    "head_top": (50.0, 3.0),
    "head_bottom": (66.0, 3.0),
    "jaw": (0.25, 0.30),
    "cheekbone": (2.6, 1.2),
    "chin": (2.2, 1.0),
    "chin_cleft": (0.0, 0.5),
    "ear_size": (9.0, 1.2),
    "ear_out": (2.6, 1.3),
    "eye_spacing": (18.0, 1.35),
    "eye_height": (-8.0, 1.2),
    "eye_width": (7.2, 0.85),
    "eye_upper": (3.6, 0.75),
    "eye_lower": (2.1, 0.5),
    "eye_tilt": (0.05, 0.09),
    "eye_skew": (0.0, 0.25),
    "eye_crease": (2.3, 0.9),
    "eye_lash": (0.9, 0.25),
    "eye_bag": (0.12, 0.10),
    "eye_socket": (2.4, 1.0),
    "eye_uneven": (0.0, 0.45),
    "iris_size": (3.25, 0.28),
    "brow_gap": (9.0, 1.4),
    "brow_shift": (1.0, 1.2),
    "brow_length": (9.8, 1.2),
    "brow_thickness": (1.6, 0.6),
    "brow_arch": (1.8, 1.2),
    "brow_slope": (0.0, 0.12),
    "brow_taper": (0.35, 0.2),
    "brow_density": (0.75, 0.16),
    "brow_ridge": (1.2, 0.8),
    "nose_tip": (13.0, 1.7),
    "nose_width": (7.2, 1.25),
    "nose_bridge": (4.6, 0.9),
    "nose_ball": (5.2, 0.9),
    "nose_out": (8.0, 2.0),
    "nose_hump": (0.0, 1.0),
    "nose_bend": (0.0, 0.7),
    "nostril": (1.45, 0.4),
    "nostril_lift": (0.0, 0.8),
    "mouth_height": (32.0, 1.5),
    "mouth_width": (12.6, 1.6),
    "lip_upper": (2.7, 0.9),
    "lip_lower": (3.7, 1.0),
    "lip_cupid": (0.45, 0.25),
    "lip_colour": (0.0, 1.0),
    "mouth_corner": (0.0, 0.9),
    "mouth_slant": (0.0, 0.03),
    "philtrum": (0.8, 0.5),
    "fold": (0.11, 0.08),
    "forehead_lines": (0.02, 0.08),
    "hairline": (-41.0, 4.0),
    "hair_recession": (3.0, 5.0),
    "hair_lean": (0.0, 5.0),
    "hair_volume": (4.5, 1.8),
    "skin_tone": (0.42, 0.20),
    "skin_hue": (0.0, 1.0),
    "mottling": (0.06, 0.025),
}

# Identity traits drawn evenly from [0, 1): they choose among kinds.
CHOICES: tuple[str, ...] = (
    "hair_kind", "hair_curl", "hair_shade", "hair_warmth", "iris_kind", "beard_kind", "beard_amount",
    "moustache_amount", "glasses_kind", "glasses_width", "glasses_height", "glasses_square", "glasses_shade",
    "freckle_kind",
)  # fmt: skip

# What changes from photo to photo, bell-shaped: name -> (mean, standard deviation).
VARIATIONS: dict[str, tuple[float, float]] = {
    "yaw": (0.0, 0.100),  # tangent of half the angle, as are pitch and roll: 0.1 is 11.4 degrees
    "pitch": (0.0, 0.050),
    "roll": (0.0, 0.030),
    "zoom": (1.0, 0.035),
    "move_x": (0.0, 1.2),
    "move_y": (0.0, 1.2),
    "smile": (0.5, 0.5),
    "mouth_open": (-0.6, 2.4),
    "eyes_open": (1.0, 0.16),
    "brow_raise": (0.0, 0.9),
    "frown": (0.0, 0.06),
    "gaze_x": (0.0, 1.0),
    "gaze_y": (0.0, 0.5),
    "light_x": (0.0, 0.75),
    "light_y": (-0.45, 0.40),
    "light_warmth": (0.0, 0.10),
    "shade_warmth": (0.0, 0.10),
    "white_red": (1.0, 0.075),
    "white_blue": (1.0, 0.10),
    "exposure": (1.03, 0.15),
    "contrast": (1.0, 0.14),
    "offset": (0.0, 0.05),
    "saturation": (0.85, 0.18),
    "hairline_move": (0.0, 1.8),
    "hair_grow": (0.0, 1.3),
    "hair_tint": (1.0, 0.20),
    "skin_tint": (1.0, 0.10),
}

# What changes from photo to photo, evenly from [0, 1).
CHANCES: tuple[str, ...] = (
    "ambient", "blink", "blur", "noise", "oil", "beard_growth", "glasses_worn", "glare",
    "wall_red", "wall_green", "wall_blue", "wall2_red", "wall2_green", "wall2_blue", "wall_lean_x", "wall_lean_y",
    "cloth_red", "cloth_green", "cloth_blue",
)  # fmt: skip

TEXTURE_SIZE = 64  # the skin's pigment map, over TEXTURE_SPAN x TEXTURE_SPAN units centred on the face's origin
TEXTURE_SPAN = 112.0
WALL_LATTICE = (7, 7)
HAIR_LATTICE = (6, 57)  # straight hair: long in y, thin in x
CURL_LATTICE = (27, 27)

_SKIN = np.array(
    [(250, 218, 200), (238, 190, 160), (216, 160, 122), (172, 118, 84), (120, 78, 56), (74, 48, 38)], np.float32
)
_HAIR = np.array([(24, 19, 18), (46, 32, 26), (84, 56, 38), (122, 84, 52), (176, 136, 84), (196, 188, 180)], np.float32)
_IRIS = np.array([(52, 32, 22), (86, 54, 30), (112, 92, 52), (86, 116, 92), (92, 126, 160), (120, 132, 144)], "f4")


def generator(seed: int, identity: int, stream: int) -> np.random.Generator:
    """The random numbers of one identity (stream 0) or of its image k (stream k + 1)."""
    # The seed comes last: it alone may need several 32-bit words, so no two triples share a word list.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((identity, stream, seed))))


def _bell(uniform: np.ndarray) -> np.ndarray:
    """[..., 3] in [0, 1) -> [...] of mean 0, deviation 1, inside (-3, 3)."""
    return (uniform[..., 0] + uniform[..., 1] + uniform[..., 2] - 1.5) * 2.0


def _draw(rng: np.random.Generator, bells: dict[str, tuple[float, float]], evens: tuple[str, ...]) -> np.ndarray:
    table = np.array(list(bells.values()))
    bell = _bell(rng.random((len(bells), 3)))
    return np.concatenate([table[:, 0] + table[:, 1] * bell, rng.random(len(evens))]).astype(np.float32)


def identity_vector(seed: int, identity: int) -> np.ndarray:
    """The parameter vector of one identity: TRAITS then CHOICES, [len(TRAITS) + len(CHOICES)] float32."""
    return _draw(generator(seed, identity, 0), TRAITS, CHOICES)


def variation_vector(rng: np.random.Generator) -> np.ndarray:
    """One photo's VARIATIONS then CHANCES, [len(VARIATIONS) + len(CHANCES)] float32."""
    return _draw(rng, VARIATIONS, CHANCES)


def skin_map(seed: int, identity: int) -> np.ndarray:
    """Pigment of one identity's skin: mottling, moles, freckles, [TEXTURE_SIZE, TEXTURE_SIZE] float32, 0 = plain."""
    rng = generator(seed, identity, 0)
    traits = _draw(rng, TRAITS, CHOICES)
    mottling, freckle_kind = traits[list(TRAITS).index("mottling")], traits[len(TRAITS) + CHOICES.index("freckle_kind")]
    coarse = rng.random((TEXTURE_SIZE // 4, TEXTURE_SIZE // 4), np.float32).repeat(4, 0).repeat(4, 1)
    for axis in (0, 1):  # a 5-tap binomial twice turns the steps into smooth patches
        for _ in range(2):
            coarse = (np.roll(coarse, 1, axis) + np.roll(coarse, -1, axis) + coarse * 2.0) * np.float32(0.25)
    pigment = (coarse - 0.5) * (2.0 * mottling)
    moles, freckles = int(rng.integers(0, 4)), 26 if freckle_kind < 0.15 else 0
    spots = rng.random((moles + freckles, 4), np.float32)
    is_mole = np.arange(len(spots)) < moles
    x = np.where(is_mole, spots[:, 0] * 60 - 30, spots[:, 0] * 44 - 22)
    y = np.where(is_mole, spots[:, 1] * 78 - 32, spots[:, 1] * 22 - 2)
    radius = np.where(is_mole, 1.3 + 0.9 * spots[:, 2], 1.3 + 0.5 * spots[:, 2])
    depth = np.where(is_mole, 0.30 + 0.40 * spots[:, 3], 0.12 + 0.16 * spots[:, 3])
    texel = TEXTURE_SPAN / TEXTURE_SIZE
    centres = np.arange(-2, 3, dtype=np.float32)
    for sx, sy, sr, sd in zip(x, y, radius, depth, strict=True):
        column = int((sx + TEXTURE_SPAN / 2) / texel)
        row = int((sy + TEXTURE_SPAN / 2) / texel)
        dx = (column + centres + 0.5) * texel - TEXTURE_SPAN / 2 - sx
        dy = (row + centres + 0.5) * texel - TEXTURE_SPAN / 2 - sy
        spot = np.clip(1.4 - (dx[None] ** 2 + dy[:, None] ** 2) / (sr * sr), 0, 1) * sd
        patch = pigment[row - 2 : row + 3, column - 2 : column + 3]
        np.maximum(patch, spot, out=patch)
    return pigment.astype(np.float32)


def _palette(colours: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Linear-light colour at `position` [b] in [0, 1] along a list of sRGB colours, [b, 3]."""
    place = np.clip(position, 0, 1) * (len(colours) - 1)
    index = np.minimum(place.astype(int), len(colours) - 2)
    part = (place - index)[:, None]
    colour = (colours[index] * (1 - part) + colours[index + 1] * part) / 255.0
    return colour * colour  # a square for the display's gamma: exact on any machine, and the camera takes the root


def block_values(identities: np.ndarray, variations: np.ndarray) -> Values:
    """Named values of a block, from identity vectors [b, .] and variation vectors [b, .]."""
    names = [*TRAITS, *CHOICES, *VARIATIONS, *CHANCES]
    raw = dict(zip(names, np.concatenate([identities, variations], axis=1).T, strict=True))
    colours = _colours(raw)
    styles = _styles(raw)
    values = {name: array.astype(np.float32)[:, None, None] for name, array in (raw | styles).items()}
    return values | {name: colour.astype(np.float32)[:, :, None, None] for name, colour in colours.items()}


def _styles(raw: Values) -> Values:
    """Kinds from even draws: hair, beard, glasses, each [b]."""
    kind = raw["hair_kind"]
    bald, long_hair, fringe = kind < 0.08, kind > 0.62, (kind > 0.48) & (kind < 0.76)
    curly = raw["hair_curl"] > 0.72
    length = np.where(long_hair, 30 + (kind - 0.62) * 110, -2 + raw["hair_shade"] * 14)
    bearded = ~long_hair & (raw["beard_kind"] < 0.40)
    moustached = ~long_hair & (raw["beard_kind"] > 0.22) & (raw["beard_kind"] < 0.50)
    return {
        "hairline": raw["hairline"] + np.where(fringe, 15.0, 0.0) - np.where(bald, 30.0, 0.0) + raw["hairline_move"],
        "hair_length": length,
        "hair_volume": np.where(bald, -2.0, np.maximum(raw["hair_volume"] + raw["hair_grow"] + curly * 3.5, 0.5)),
        "curly": np.where(curly, 1.0, 0.0),
        "sideburn": np.where(long_hair, length, np.where(bald, -60.0, length * 0.5 - 5)),
        "hair_recession": np.maximum(raw["hair_recession"], 0) * np.where(fringe | long_hair, 0.2, 1.0),
        "beard": np.where(bearded, 0.25 + 0.65 * raw["beard_amount"], 0.0) * (0.7 + 0.5 * raw["beard_growth"]),
        "moustache": np.where(moustached, 0.5 + 0.4 * raw["moustache_amount"], 0.0),
        "glasses": np.where((raw["glasses_kind"] < 0.18) & (raw["glasses_worn"] < 0.9), 1.0, 0.0),
        "eyes_open": np.where(raw["blink"] < 0.03, 0.15, raw["eyes_open"]),
        "mouth_open": np.maximum(raw["mouth_open"], 0.0),
        "brow_thickness": np.maximum(raw["brow_thickness"], 0.5),
        "lip_upper": np.maximum(raw["lip_upper"], 0.9),
        "lip_lower": np.maximum(raw["lip_lower"], 1.4),
        "eye_upper": np.maximum(raw["eye_upper"], 1.8),
        "eye_crease": np.maximum(raw["eye_crease"], 0.6),
    }


def _colours(raw: Values) -> Values:
    """Colours in linear light, each [b, 3]."""
    hue = np.stack([raw["skin_hue"] * 0.012, raw["skin_hue"] * -0.004, raw["skin_hue"] * -0.03], 1)
    skin = _palette(_SKIN, raw["skin_tone"]) * (1 + hue) * raw["skin_tint"][:, None]
    warmth = 1 + (raw["hair_warmth"][:, None] - 0.5) * np.array([0.5, 0.1, -0.3])
    hair = _palette(_HAIR, raw["hair_shade"] ** 2 * 1.1) * warmth * raw["hair_tint"][:, None]
    lip = skin * (np.array([0.84, 0.44, 0.45]) + raw["lip_colour"][:, None] * np.array([0.03, -0.08, -0.06]))
    frame = raw["glasses_shade"]
    dyes = {n: np.stack([raw[f"{n}_{c}"] for c in ("red", "green", "blue")], 1) for n in ("wall", "wall2", "cloth")}
    muted = {name: (dye * 0.45 + dye.mean(1, keepdims=True) * 0.55) * 0.9 for name, dye in dyes.items()}
    white = np.stack([raw["white_red"], np.ones_like(raw["white_red"]), raw["white_blue"]], 1)
    return {
        "skin": skin,
        "hair": hair,
        "brow": np.minimum(hair * 0.7, skin * 0.35),
        "lip": lip,
        "iris": _palette(_IRIS, raw["iris_kind"] ** 2),
        "frame": np.stack([frame, frame * frame, frame * frame * frame], 1) * 0.35 + 0.01,
        **{name: dye * dye for name, dye in muted.items()},
        "white": white * white * (raw["exposure"] ** 2)[:, None],
        "key": 1 + raw["light_warmth"][:, None] * np.array([1.0, 0.2, -1.2]),
        "fill": 1 + raw["shade_warmth"][:, None] * np.array([1.0, 0.2, -1.2]),
    }
