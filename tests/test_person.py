"""Among several faces in a photo the person is whom the photos have in common."""

import numpy as np

from advcloak_jax.photos import person


def faces(*persons: int) -> np.ndarray:
    """Unit-norm embeddings [n, 16] of persons, each a direction of its own with a little noise."""
    noise = np.random.default_rng(sum(persons)).normal(0, 0.1, (len(persons), 16))
    found = np.eye(16)[list(persons)] + noise
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_the_person_is_whom_all_photos_show() -> None:
    photos = [faces(3), faces(5, 3), faces(3), faces(6, 7, 3), faces(3, 8), faces(3)]
    chosen, alike = person.choose(photos)
    assert chosen == [0, 1, 0, 2, 0, 0]
    assert alike.min() > 0.8


def test_somebody_elses_photo_stands_out() -> None:
    chosen, alike = person.choose([faces(3), faces(3), faces(9), faces(3)])
    assert chosen == [0, 0, 0, 0]
    assert alike[2] < 0.4 < 0.6 < np.delete(alike, 2).min()


def test_a_single_photo_is_of_its_largest_face() -> None:
    chosen, alike = person.choose([faces(4, 3)])
    assert (chosen, alike.tolist()) == ([0], [1.0])


def test_a_known_person_is_taken_whoever_is_seen_more_often() -> None:
    photos = [faces(5, 3), faces(5, 3), faces(5, 3), faces(5)]
    assert person.choose(photos)[0] == [0, 0, 0, 0]
    chosen, alike = person.choose(photos, faces(3)[0])
    assert chosen == [1, 1, 1, 0]
    assert alike[3] < 0.3 < 0.7 < alike[:3].min()


def test_two_photos_have_one_in_common() -> None:
    assert person.choose([faces(4, 3), faces(5, 3)])[0] == [1, 1]
