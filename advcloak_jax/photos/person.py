"""Who of several people in a photo is the person whose photos these are: whom most photos have in common."""

from collections.abc import Sequence

import numpy as np

ROUNDS = 10


def choose(faces: Sequence[np.ndarray], known: np.ndarray | None = None) -> tuple[list[int], np.ndarray]:
    """For each photo the number of the person's face, and its cosine to the person, [photos].

    faces: of each photo the embeddings [n, d], unit norm, of its faces, the largest first; at least one each.
    known: the person's embedding [d], which then decides. Without it, begins with the largest face of every photo, then
    takes in each the one most similar to the mean of those chosen in the others, until nothing changes; the cosine is
    to that mean, and 1 for a single photo.
    """
    if known is not None:
        cosines = [own @ known for own in faces]
        return [int(np.argmax(own)) for own in cosines], np.array([own.max() for own in cosines], np.float32)
    chosen = [0] * len(faces)
    if len(faces) == 1:
        return chosen, np.ones(1, np.float32)
    # In float64, so that taking a photo's own face from the sum leaves that of the others.
    total = np.sum([own[0] for own in faces], axis=0, dtype=np.float64)
    for _ in range(ROUNDS):
        before = list(chosen)
        for photo, own in enumerate(faces):
            others = total - own[chosen[photo]]
            chosen[photo] = int(np.argmax(own @ others))
            total = others + own[chosen[photo]]
        if chosen == before:
            break
    alike = [_cosine(own[chosen[i]], total - own[chosen[i]]) for i, own in enumerate(faces)]
    return chosen, np.array(alike, np.float32)


def _cosine(embedding: np.ndarray, others: np.ndarray) -> float:
    """Of an embedding [d] of unit norm to the direction of a sum [d]."""
    return float(embedding @ others) / max(float(np.linalg.norm(others)), 1e-12)
