"""Rows on targets: what is a black box, which photos wear what, and what a second time computes."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_training as small

from advcloak_jax import images
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.callable_target import CallableTarget
from advcloak_jax.evaluation.store import Store
from advcloak_jax.evaluation.targets import FlaxTarget
from advcloak_jax.jobs.entries import Entry, Source
from advcloak_jax.jobs.measure import Gallery, Worn, measure, wear
from advcloak_jax.jobs.targets import LoadedTarget
from advcloak_jax.jobs.trials import Trials
from advcloak_jax.progress import Progress
from advcloak_jax.recognizers.recognizer import Recognizer

SIZE = small.SIZE


def faces(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, SIZE, SIZE, 3), np.uint8)


TRIALS = Trials(["a", "b", "c"], faces(0, 3, 4), faces(1, 3, 2), faces(2, 5))


def network(seed: int, name: str) -> LoadedTarget:
    module = small.SmallRecognizer()
    variables = module.init(jax.random.key(seed), jnp.zeros((1, SIZE, SIZE, 3)), train=False)
    target = FlaxTarget(name, module, variables, batch=16)
    return LoadedTarget(target, None, None, frozenset(), Recognizer(module, variables))


class Counted:
    """A target that counts the faces it is given."""

    def __init__(self, loaded: LoadedTarget) -> None:
        self.name, self.seen, self._target = loaded.target.name, 0, loaded.target

    def embed(self, images: np.ndarray) -> np.ndarray:
        self.seen += len(images)
        return self._target.embed(images)

    def fingerprint(self) -> str | None:
        return self._target.fingerprint()


def counted(loaded: LoadedTarget) -> LoadedTarget:
    return LoadedTarget(Counted(loaded), None, None, loaded.trained_on, loaded.recognizer)


class Method:
    """A way of making masks that counts its calls: the mean of the faces it gets, times a strength."""

    def __init__(self, kind: str, strength: float = 1.0) -> None:
        self.calls, self.kind, self.strength = 0, kind, strength

    def entry(self, source: Source | None) -> Entry:
        axes: Any = {"person": 1, "universal": (0, 1), "image": ()}[self.kind]

        def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
            self.calls += 1
            return self.strength * faces.mean(axes) ** self.strength

        return Entry(
            Cloak(f"{self.kind}-{self.strength}", self.kind, make_masks), source, f"{self.kind} {self.strength}"
        )


def run(store: Store, targets: list[LoadedTarget], entries: list[Entry], norm: float = 1200.0) -> list[Any]:
    gallery = Gallery(TRIALS, targets, entries, store, 0)
    found = []
    with Progress("test", 0, "faces") as progress:
        for entry in entries:
            worn = wear(entry, TRIALS, store, norm=norm, seed=0, timed=2)
            found.append(measure(gallery, entry, worn, TRIALS.test, progress))
    return found


@pytest.mark.parametrize("kind", ["person", "universal", "image"])
def test_each_kind_of_mask_is_made_from_its_photos_and_worn_at_the_norm(kind: str) -> None:
    worn: Worn = wear(Method(kind).entry(None), TRIALS, Store(None), norm=700.0, seed=0)
    inference, test = (x.astype(np.float32) / 255 for x in (TRIALS.inference, TRIALS.test))
    made = {"person": inference.mean(1)[:, None], "universal": inference.mean((0, 1))[None, None], "image": test}[kind]
    masks = made / np.sqrt((made**2).sum((-3, -2, -1), keepdims=True)) * 700 * SIZE / 112 / 255
    expected = images.protect(TRIALS.test, masks.astype(np.float32))
    # A last bit of the sum may decide where a grey level is cut.
    assert np.abs(worn.protected.astype(int) - expected).max() <= 1
    assert (worn.protected == expected).mean() > 0.99
    np.testing.assert_allclose(worn.masks, np.broadcast_to(masks, TRIALS.test.shape)[:, 0], atol=1e-5)
    assert worn.making is None


def test_a_second_run_computes_nothing_and_a_change_only_what_it_touches(tmp_path: Path) -> None:
    def once(norm: float = 1200.0, strength: float = 1.0, third: bool = False) -> tuple[list[int], list[int], Any]:
        nets = [network(1, "own"), *(counted(network(i, f"box {i}")) for i in (2, 3, 4)[: 3 if third else 2])]
        methods = [Method("person"), Method("image", strength)]
        source = Source((nets[0],))
        found = run(Store(tmp_path), nets, [one.entry(source) for one in methods], norm)
        return [one.calls for one in methods], [one.target.seen for one in nets[1:]], found  # type: ignore[attr-defined]

    clean, wears = TRIALS.inference[:, :, 0, 0, 0].size + TRIALS.test[:, :, 0, 0, 0].size, 6
    every = clean + len(TRIALS.distractors) + 2 * wears
    # Timed twice, then made.
    calls, seen, first = once()
    assert (calls, seen) == ([3, 3], [every] * 2)
    calls, seen, again = once()
    assert (calls, seen) == ([0, 0], [0, 0])
    for one, other in zip(first, again, strict=True):
        assert (one.ssim, one.psnr) == (other.ssim, other.psnr)
        for name in one.ranks:
            np.testing.assert_array_equal(one.ranks[name], other.ranks[name])
    assert once(strength=2.0)[:2] == ([0, 3], [wears] * 2)
    assert once(third=True)[:2] == ([0, 0], [0, 0, every])
    # Masks do not depend on the norm that they are brought to.
    assert once(norm=900.0)[:2] == ([0, 0], [2 * wears] * 2)


def test_a_python_target_is_computed_every_time(tmp_path: Path) -> None:
    seen = []

    def function(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return images.reshape(len(images), -1)[:, :8].astype(np.float32) + 1

    for _ in range(2):
        loaded = LoadedTarget(CallableTarget("mine", function), None, None, frozenset())
        assert loaded.fingerprint is None
        run(Store(tmp_path), [loaded], [Method("person").entry(None)])
    assert sum(seen) == 2 * (18 + 5 + 6)


def test_a_rows_own_surrogate_is_no_black_box_whatever_it_is_called(tmp_path: Path) -> None:
    own, other, third = network(1, "own"), network(2, "other"), network(3, "third")
    twin = LoadedTarget(CallableTarget("twin", own.target.embed), None, None, frozenset())
    entries = [
        Method("person").entry(Source((own,))),
        Method("person").entry(Source((own, other))),
        Method("image").entry(None),
    ]
    gallery = Gallery(TRIALS, [twin, other, third], entries, Store(None), 0)
    names = [[one.target.name for one in gallery.black_boxes(entry)] for entry in entries]
    assert names == [["other", "third"], ["third"], ["twin", "other", "third"]]
    assert gallery.common(entries) == ["third"]
    measured = run(Store(None), [twin, other, third], entries)
    assert [list(one.ranks) for one in measured] == names
    with pytest.raises(UserError, match=r"every one of --targets is the surrogate of person-1\.0 against own"):
        Gallery(TRIALS, [twin], entries, Store(None), 0)


def test_a_surrogate_trained_on_a_protected_person_is_refused() -> None:
    own = network(1, "own")
    seen = LoadedTarget(own.target, None, None, frozenset({"b"}), own.recognizer)
    with pytest.raises(UserError, match="own was trained on b, who is to be tested; train it"):
        Gallery(TRIALS, [network(2, "x")], [Method("person").entry(Source((seen,)))], Store(None), 0)


def test_a_target_that_embeds_nobody_is_refused() -> None:
    """It would find nobody without a cloak either, and count as protection."""
    blind = LoadedTarget(CallableTarget("blind", lambda images: np.zeros((len(images), 4))), None, None, frozenset())
    with pytest.raises(UserError, match=r"blind gave only zeros for \d+ of \d+ faces"):
        Gallery(TRIALS, [blind, network(2, "x")], [Method("person").entry(None)], Store(None), 0)
