"""What is said of a recogniser that tells nobody apart: the wrong convention, swapped channels, loose crops."""

import numpy as np
import pytest
from patterned_faces import EACH, PERSONS, faces

from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import diagnosis
from advcloak_jax.evaluation.verification import Pairs
from advcloak_jax.recognizers.convention import Convention


class Picky:
    """Recognises faces in one convention only, and in a window: otherwise it sees constant features."""

    name = "picky"

    def __init__(self, right: Convention, now: Convention, share: float = 1.0, rolled: bool = False) -> None:
        self.right, self.convention, self.share, self.rolled = right, now, share, rolled

    def with_convention(self, convention: Convention) -> "Picky":
        return Picky(self.right, convention, self.share, self.rolled)

    def embed(self, images: np.ndarray) -> np.ndarray:
        if self.convention.std == (1.0, 1.0, 1.0) and self.right.std != (1.0, 1.0, 1.0):
            raise UserError("not finite")
        rng = np.random.default_rng(0)
        if self.convention == self.right:
            features = images[:, ::4, ::4].reshape(len(images), -1) - 128.0
        else:
            features = rng.normal(size=(len(images), 192))
        return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


class Swapped:
    """Recognises faces whose red is blue, and has no convention that could be changed."""

    name = "swapped"

    def embed(self, images: np.ndarray) -> np.ndarray:
        # All faces of the test have their own red and noise for blue.
        features = images[:, ::4, ::4, 2].reshape(len(images), -1) - 128.0
        return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


class Tight:
    """Recognises faces by a few pixels near the border, and so only if the faces fill the picture."""

    name = "tight"

    def embed(self, images: np.ndarray) -> np.ndarray:
        features = images[:, [2, 6, 25, 29]][:, :, [2, 6, 25, 29]].reshape(len(images), -1) - 128.0
        return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def some_pairs(count: int = 400) -> Pairs:
    rng = np.random.default_rng(2)
    first = rng.integers(PERSONS * EACH, size=count)
    same = np.arange(count) % 2 == 0
    away = np.where(same, 0, EACH * rng.integers(1, PERSONS, size=count))
    second = (first // EACH * EACH + (first + 1) % EACH + away) % (PERSONS * EACH)
    return Pairs(first, second, same)


IMAGENET = Convention((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@pytest.mark.parametrize(
    ("right", "now", "options"),
    [
        (Convention(channels="bgr"), Convention(), "channels=bgr"),
        (Convention((0.0,) * 3, (1.0,) * 3), Convention(size=(32, 24)), "mean=0,std=1"),
        (IMAGENET, Convention(channels="bgr"), "mean=123.675/116.28/103.53,std=58.395/57.12/57.375,channels=rgb"),
        (
            # A network that gets B, G, R wants ImageNet's numbers in that order.
            Convention((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), "bgr"),
            Convention(),
            "mean=103.53/116.28/123.675,std=57.375/57.12/58.395,channels=bgr",
        ),
        (Convention((100.0,) * 3, (50.0,) * 3, "bgr"), Convention((100.0,) * 3, (50.0,) * 3), "channels=bgr"),
    ],
)
def test_the_convention_at_fault_is_found(right: Convention, now: Convention, options: str) -> None:
    found = diagnosis.diagnose(Picky(right._replace(size=now.size), now), faces(), some_pairs())
    assert found.cause is not None
    assert found.cause.change == options
    assert found.scales_tried
    assert not any("window" in trial.change for trial in found.trials)  # the answer is known before crops are tried
    text = diagnosis.explain("picky", 0.51, 400, found)
    gain = f"{options} gives {found.cause.auc:.2f} instead of {found.auc:.2f} on {found.pairs} of them"
    head = "picky: AUC 0.51 over 400 pairs is closer to guessing (0.5) than to recognising (1)"
    assert text == f"{head}; {gain}: give the recogniser {options} (an imported one: import it again with them)."


def test_swapped_channels_and_loose_crops_are_found_for_any_target() -> None:
    images = faces()
    images[..., 2] = np.random.default_rng(3).integers(0, 256, images.shape[:3])
    found = diagnosis.diagnose(Swapped(), images, some_pairs())
    assert found.cause is not None
    assert found.cause.change == "swapping red and blue"
    # Small faces amid noise that fills three quarters of the picture.
    loose = np.random.default_rng(4).integers(0, 256, images.shape, np.uint8)
    loose[:, 8:24, 8:24] = faces()[:, ::2, ::2]
    found = diagnosis.diagnose(Tight(), loose, some_pairs())
    best = max(found.trials, key=lambda trial: trial.auc)
    assert best.change == "taking the central 50 % of each image"
    assert best.advice == "crop the faces tighter"


def test_only_a_clear_gain_is_a_cause_and_failing_ways_are_none() -> None:
    trials = (diagnosis.Trial("a", "do a", 0.6), diagnosis.Trial("b", "do b", 0.64))
    assert diagnosis.Diagnosis(0.5, 128, True, trials).cause is None
    assert diagnosis.Diagnosis(0.48, 128, True, trials).cause == trials[1]
    assert diagnosis.Diagnosis(0.5, 128, True, ()).cause is None
    nowhere = Picky(Convention((9.0,) * 3), Convention())
    found = diagnosis.diagnose(nowhere, faces(), some_pairs())
    assert found.cause is None
    assert not any("std=1," in trial.change + "," for trial in found.trials)
    assert "check that the faces are aligned" in diagnosis.explain("x", 0.5, 400, found)


def test_suspicion_needs_enough_pairs() -> None:
    assert diagnosis.suspicious(0.55, 400)
    assert not diagnosis.suspicious(0.55, 100)
    assert not diagnosis.suspicious(0.8, 4000)


def test_at_most_256_images_are_embedded_for_a_diagnosis() -> None:
    seen = []

    class Counting(Swapped):
        def embed(self, images: np.ndarray) -> np.ndarray:
            seen.append(len(images))
            return super().embed(images)

    images = np.random.default_rng(0).integers(0, 256, (900, 8, 8, 3), np.uint8)
    count = 450
    pairs = Pairs(np.arange(count), np.arange(count) + count, np.arange(count) % 3 == 0)
    found = diagnosis.diagnose(Counting(), images, pairs)
    assert (max(seen), found.pairs) == (256, 128)


def test_windows_move_and_zoom_as_they_say() -> None:
    image = np.zeros((1, 40, 40, 3), np.uint8)
    image[:, 10:30, 10:30] = 255
    assert diagnosis.window(image, 0.5, 0.0)[:, 4:-4, 4:-4].min() > 250
    assert diagnosis.window(image, 0.5, 0.0).min() > 150  # the border is interpolated with what lies beyond
    np.testing.assert_array_equal(diagnosis.window(image, 1.0, 0.0), image)
    np.testing.assert_array_equal(diagnosis.window(image, 1.0, 0.25)[:, :30], image[:, 10:])
    np.testing.assert_array_equal(diagnosis.window(image, 1.0, -0.25)[:, 10:], image[:, :30])
    looser = diagnosis.window(image, 1.25, 0.0)
    assert looser[0, 20, :, 0].astype(int).sum() == pytest.approx(255 * 16, rel=0.02)
