"""What the golden masks are made from, by names, so that none of it is stored: faces, random starts, draws, dropout."""

import numpy as np
from golden.fill import images, uniform

PERSONS, PER_PERSON, SIZE, EMBEDDING = 2, 4, 32, 32
UNITS, CHANNELS = (1, 1, 1, 1), (16, 32, 64, 128)
STEPS, MOMENTUM_STEPS, LOWKEY_STEPS, SGA_STEPS = 16, 20, 10, 4
RATE = 0.1
MINIBATCH, ROUNDS = 2, 2
DRAWS = ROUNDS * PER_PERSON // MINIBATCH


def faces() -> np.ndarray:
    """[P, N, H, W, 3] in [0, 1], alike within a person; some pixels so dark or bright that masks are clipped there."""
    found = []
    for person in range(PERSONS):
        base, own = images(f"cloaks.{person}", 1, SIZE), images(f"cloaks.{person}.own", PER_PERSON, SIZE)
        found.append(np.clip(1.4 * (0.6 * base + 0.4 * own) - 0.2, 0, 1))
    return np.stack(found).astype(np.float32)


def noise(epsilon: float, *, per_image: bool = True) -> np.ndarray:
    """Random starts [P, N, H, W, 3] or [P, H, W, 3], uniform in [-epsilon, epsilon) of 255."""
    shape = (PERSONS, *((PER_PERSON,) if per_image else ()), SIZE, SIZE, 3)
    return uniform("cloaks.noise", shape, -epsilon / 255, epsilon / 255)


def draws() -> np.ndarray:
    """Which images SGA draws: [steps * DRAWS, P, MINIBATCH]."""
    order = np.argsort(uniform("cloaks.draws", (SGA_STEPS * DRAWS, PERSONS, PER_PERSON)), -1)
    return order[..., :MINIBATCH]


def kept(call: int, number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Which values [P * N, h, w, C] of a feature map dropout keeps.

    call: 0 where the originals are embedded, 1 for the adversarial images; number: of the map.
    """
    return uniform(f"cloaks.dropout.{call}.{number}", shape, 0, 1) >= RATE


def head(place: int, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of LPIPS' linear layer number `place`: not negative, and so large that LowKey heeds them."""
    return uniform(f"cloaks.head.{place}", shape, 0, 4)
