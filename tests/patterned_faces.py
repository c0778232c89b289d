"""Small pictures that a recogniser of pixels can tell apart, for the tests of verification and of its diagnosis."""

import numpy as np

PERSONS, EACH, SIZE = 30, 4, 32


def faces() -> np.ndarray:
    """[120, 32, 32, 3]: four pictures of each of 30 coarse patterns, with noise. Patterns are not symmetric."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(40, 216, (PERSONS, 1, 8, 8, 3)).repeat(EACH, 1).reshape(-1, 8, 8, 3)
    images = patterns.repeat(4, 1).repeat(4, 2) + rng.normal(0, 20, (PERSONS * EACH, SIZE, SIZE, 3))
    return np.clip(images, 0, 255).astype(np.uint8)
