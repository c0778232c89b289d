"""The feeds: for one (seed, step) the same batch, wherever the faces are, on any devices and processes."""

import functools
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from PIL import Image

from advcloak_jax.config import FeedKind, PrepareConfig, RecognizerConfig
from advcloak_jax.data import order, sources
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.rows import Chosen
from advcloak_jax.errors import UserError
from advcloak_jax.jobs import prepare
from advcloak_jax.training import parallel, placement, streaming
from advcloak_jax.training.feed import Feed, ResidentFeed, Rows, ShardedFeed, StreamedFeed, row_bytes
from advcloak_jax.training.feed_choice import choose, free_bytes, make_feed
from advcloak_jax.training.steps import DEVICES

SIZE, BATCH, TOTAL = 32, 4, 9
ORDERS = ("shuffled", "balanced")
KINDS = ("resident", "sharded", "streamed")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """23 random pictures of 5 people in a prepared set: on disk, exactly."""
    root = tmp_path_factory.mktemp("feed")
    rng = np.random.default_rng(0)
    for number in range(23):
        folder = root / "faces" / f"p{int(number**0.5)}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(folder / f"{number:02d}.png")
    config = PrepareConfig(
        source=f"folder:{root / 'faces'}", out=str(root / "set"), encoding="raw", image_size=SIZE, shard_images=5
    )
    out = prepare.run(config)
    return sources.load([f"tfds:{out}"], image_size=SIZE, on_bad_image="refuse", cache=None)


@pytest.fixture(scope="module")
def rows(faces: FaceSet) -> Rows:
    """Those of 21 images, an odd number for two devices: face, label and an embedding with negative values."""
    chosen = np.arange(1, 22)
    embeddings = np.random.default_rng(1).standard_normal((21, 6)).astype(np.float32)
    return {"faces": Chosen(faces.images, chosen), "labels": faces.identity[chosen], "more": {"embeddings": embeddings}}


def ordered(kind: str, rows: Rows) -> streaming.Order:
    if kind == "balanced":
        return functools.partial(order.Balanced(3, rows["labels"]).batches, BATCH)
    return functools.partial(order.image_batches, 3, len(rows["labels"]), BATCH)


def build(kind: str, rows: Rows, sampling: str, devices: int, mapping: str = "pmap", workers: int = 0) -> Feed:
    config = RecognizerConfig(
        feed=kind,  # type: ignore[arg-type]
        parallel=mapping,  # type: ignore[arg-type]
        feed_workers=workers,
    )
    return make_feed(config, rows, ordered(sampling, rows), jax.local_devices()[:devices], TOTAL)


class Resident(NamedTuple):
    rows: Any
    key: Any


def reader(feed: Feed, devices: int, mapping: str) -> Callable[[int, int], tuple[Rows, np.ndarray]]:
    """(first step, count) -> the rows [count, B, ...] and positions that the graph sees, over all devices, in order."""
    chosen = jax.local_devices()[:devices]

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        return state, jax.tree.map(lambda x: lax.all_gather(x, DEVICES, tiled=True), batch)

    def gather(resident: Any, item: Any, number: Any) -> Any:
        return feed.take(resident.rows, item), item["position"]

    scanned = parallel.scan_steps(lambda _: step, gather, unroll=False)
    run = parallel.parallelise(scanned, chosen, mapping, resident_specs=Resident(feed.specs, P()))
    resident = Resident(feed.rows, placement.reside(jnp.zeros(()), chosen, mapping))

    class State(NamedTuple):
        step: Any

    def read(first: int, count: int) -> tuple[Rows, np.ndarray]:
        state = placement.replicate(State(jnp.int32(first)), chosen)
        _, (found, positions) = run(state, resident, feed.batches(first, count))
        return jax.tree.map(np.asarray, found), np.asarray(positions)

    return read


def expected(rows: Rows, sampling: str, first: int, count: int) -> Rows:
    index = ordered(sampling, rows)(first, count)
    return jax.tree.map(lambda x: np.asarray(x[index]), rows)


def assert_equal(found: Rows, wanted: Rows) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for here, there in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert here.dtype == there.dtype
        np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize(
    ("kind", "sampling", "devices", "mapping"),
    [
        ("resident", "shuffled", 2, "pmap"),
        ("sharded", "shuffled", 1, "pmap"),
        ("sharded", "balanced", 2, "pmap"),
        ("sharded", "shuffled", 2, "shard_map"),
        ("streamed", "balanced", 1, "pmap"),
        ("streamed", "shuffled", 2, "pmap"),
        ("streamed", "balanced", 2, "shard_map"),
    ],
)
def test_every_feed_gives_the_batches_of_the_order(
    rows: Rows, kind: str, sampling: str, devices: int, mapping: str
) -> None:
    """From the first step, on over an epoch's end, to a last call of fewer steps; then again from the middle."""
    feed = build(kind, rows, sampling, devices, mapping)
    assert feed.kind == kind
    read = reader(feed, devices, mapping)
    for first, count in ((0, 4), (4, 4), (8, 1), (4, 4), (5, 4)):
        found, positions = read(first, count)
        assert_equal(found, expected(rows, sampling, first, count))
        np.testing.assert_array_equal(positions, np.tile(np.arange(BATCH), (count, 1)))
    feed.close()


def test_rows_are_shared_and_not_copied(rows: Rows) -> None:
    """Each of two devices holds 11 of the 21 rows, the second one's last being zeros."""
    for mapping in ("pmap", "shard_map"):
        feed = build("sharded", rows, "shuffled", 2, mapping)
        for part in feed.rows["faces"].addressable_shards:
            assert part.data.reshape(-1, SIZE, SIZE, 3).shape[0] == 11
        whole = np.asarray(feed.rows["faces"]).reshape(22, SIZE, SIZE, 3)
        np.testing.assert_array_equal(whole[:21], rows["faces"][:])
        assert not whole[21].any()


@pytest.mark.parametrize("sampling", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_share_a_batch(rows: Rows, kind: str, sampling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told its own half of the batch of one process; a streamed feed reads no faces but those of its half."""
    read: list[np.ndarray] = []

    class Watched(Chosen):
        def _take(self, numbers: np.ndarray) -> np.ndarray:
            read.append(numbers)
            return super()._take(numbers)

    faces = rows["faces"]
    watched = {**rows, "faces": Watched(faces._images, faces._index)}
    index = ordered(sampling, rows)(0, TOTAL)
    monkeypatch.setattr(placement, "place", lambda chunk, devices, mapping: chunk)
    parts = []
    for process in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "process_count", lambda: 2)
            patch.setattr(jax, "process_index", lambda process=process: process)
            kinds = {"resident": ResidentFeed, "sharded": ShardedFeed}
            order_ = ordered(sampling, rows)
            if kind == "streamed":
                feed: Feed = StreamedFeed(watched, order_, jax.local_devices()[:1], "pmap", total=TOTAL, workers=0)
            else:
                feed = kinds[kind]({}, order_, jax.local_devices()[:1], "pmap")
            read.clear()
            parts.append(feed.batches(0, TOTAL))
            if kind == "streamed":
                np.testing.assert_array_equal(np.concatenate(read), index[:, 2 * process : 2 * process + 2].ravel())
            feed.close()
    for name, wanted in (("index", index), ("position", np.tile(np.arange(BATCH), (TOTAL, 1)))):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], axis=1), wanted)
    if kind == "streamed":
        joined = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *(part["rows"] for part in parts))
        assert_equal(joined, expected(rows, sampling, 0, TOTAL))


@pytest.mark.slow
def test_worker_processes_give_the_same(rows: Rows) -> None:
    sampling = "balanced"
    feed = build("streamed", rows, sampling, 1, workers=1)
    for first, count in ((0, 2), (2, 2), (4, 2)):
        item = jax.tree.map(lambda x: np.asarray(x)[0], feed.batches(first, count))
        assert_equal(item["rows"], expected(rows, sampling, first, count))
    assert feed.starting_seconds > 0
    feed.close()


def test_an_order_can_be_sent_to_another_process(rows: Rows) -> None:
    for sampling in ORDERS:
        first = ordered(sampling, rows)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(first))(2, 5), first(2, 5))


def test_reading_ahead_is_bounded_and_its_errors_arrive(rows: Rows) -> None:
    """Grain reads a few calls ahead and not the set; a damaged picture's sentence reaches the loop."""
    made: list[int] = []

    class Faces(Chosen):
        def _take(self, numbers: np.ndarray) -> np.ndarray:
            made.append(len(numbers))
            if len(made) > 12:
                raise UserError("picture 7 is damaged")
            return super()._take(numbers)

    faces = rows["faces"]
    calls = streaming.Calls(Faces(faces._images, faces._index), ordered("shuffled", rows), slice(0, 4), 0, 100, 1)
    stream: Iterator[Any] = streaming.pipeline(calls, 0, lambda call: call)
    next(stream)
    time.sleep(0.5)
    assert len(made) <= 1 + 3 * (streaming.READ_AHEAD + 1)
    with pytest.raises(UserError, match="picture 7 is damaged"):
        list(stream)


@pytest.mark.parametrize(
    ("needed", "free", "devices", "kind"),
    [
        (100, 200, 1, "resident"),
        (101, 200, 1, "streamed"),
        (101, 200, 2, "sharded"),
        (200, 200, 2, "sharded"),
        (201, 200, 2, "streamed"),
        (201, None, 2, "resident"),
    ],
)
def test_auto_takes_the_first_that_fits(needed: int, free: int | None, devices: int, kind: FeedKind) -> None:
    assert choose("auto", needed, free, devices)[0] == kind
    assert choose("sharded", needed, free, devices)[0] == "sharded"


def test_auto_says_what_it_chose(rows: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    assert row_bytes(rows) == 21 * (SIZE * SIZE * 3 + 4 + 24)
    assert free_bytes(jax.local_devices()) is not None
    assert build("auto", rows, "shuffled", 2).kind == "resident"
    assert "Feed: resident (0.1 MB in all" in capsys.readouterr().err
