"""The jobs learn the same from every feed, to the bit, and go on from the middle with another one."""

from typing import Any

import jax
import numpy as np
import pytest
import small_training as small

from advcloak_jax.config import FeedKind, ImageConfig, RecognizerConfig, SplitConfig
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.splits import Split, make_split
from advcloak_jax.jobs import cloak, recognizer
from advcloak_jax.recognizers.recognizer import Recognizer
from advcloak_jax.training import placement
from advcloak_jax.training.loop import Job

SIZE = 32
SPLIT = SplitConfig(protected=1, n_inference=1, n_test=2, generator=4, generator_images=4, validation=2, surrogate=4)
SETTINGS: dict[str, Any] = {
    "batch": 4,
    "steps": 4,
    "steps_per_dispatch": 1,
    "checkpoint_every": 2,
    "log_every": 2,
    "image_size": SIZE,
    "split": SPLIT,
}


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    images = np.random.default_rng(0).integers(0, 256, (12 * 5, SIZE, SIZE, 3), np.uint8)
    return FaceSet(images, np.repeat(np.arange(12, dtype=np.int32), 5), tuple(f"noise/{i:02d}" for i in range(12)))


@pytest.fixture(scope="module")
def split(faces: FaceSet) -> Split:
    return make_split(faces, SPLIT)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = small.SmallRecognizer()
    variables = module.init(jax.random.key(5), np.zeros((1, SIZE, SIZE, 3), np.float32), train=False)
    monkeypatch.setattr(recognizer, "build_recognizer", lambda *_, axis_name, **__: small.SmallRecognizer(axis_name))
    monkeypatch.setattr(cloak, "load_surrogate", lambda _: Recognizer(module, variables))
    monkeypatch.setattr(cloak, "build_generator", lambda *_, axis_name, **__: small.SmallGenerator(axis_name))
    monkeypatch.setattr(cloak, "Discriminator", lambda *_, axis_name, **__: small.SmallDiscriminator(axis_name))


def build(kind: str, feed: FeedKind, faces: FaceSet, split: Split) -> Job:
    if kind == "image":
        config = ImageConfig(feed=feed, **SETTINGS)
        return cloak.build_image(config, faces, split)
    return recognizer.build(RecognizerConfig(feed=feed, sampling="balanced", **SETTINGS), faces, split)


def advance(job: Job, state: Any, first: int, last: int) -> Any:
    """From step `first` to `last`, as the loop does it."""
    for step in range(first, last):
        state, _ = job.advance(state, step, 1)
    job.feed.close()
    return state


def on_host(state: Any) -> list[np.ndarray]:
    return [np.array(leaf) for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize("kind", ["recognizer", pytest.param("image", marks=pytest.mark.slow)])
def test_every_feed_learns_the_same(kind: str, faces: FaceSet, split: Split) -> None:
    ends = {}
    for feed in ("resident", "sharded", "streamed"):
        job = build(kind, feed, faces, split)  # type: ignore[arg-type]
        assert job.feed.kind == feed
        ends[feed] = on_host(advance(job, job.state, 0, 4))
    for feed in ("sharded", "streamed"):
        for here, there in zip(ends[feed], ends["resident"], strict=True):
            np.testing.assert_array_equal(here, there)


@pytest.mark.slow
def test_a_resumed_run_may_have_another_feed(faces: FaceSet, split: Split) -> None:
    whole = build("recognizer", "resident", faces, split)
    expected = on_host(advance(whole, whole.state, 0, 4))
    first, second = (build("recognizer", feed, faces, split) for feed in ("resident", "streamed"))  # type: ignore[arg-type]
    half = jax.device_get(advance(first, first.state, 0, 2))
    state = placement.replicate(half, jax.local_devices())
    for here, there in zip(on_host(advance(second, state, 2, 4)), expected, strict=True):
        np.testing.assert_array_equal(here, there)
    assert second.feed.starting_seconds > 0
