"""The deal: disjoint, deterministic, independent of listing order, saved by name."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from advcloak_jax.config import SplitConfig
from advcloak_jax.data import splits
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.splits import Split, images_with_labels, make_split
from advcloak_jax.errors import UserError

SMALL = SplitConfig(
    protected=4,
    n_inference=3,
    n_test=2,
    generator=5,
    generator_images=4,
    validation=3,
    surrogate=6,
    target=2,
)


def faces_of(counts: dict[str, int], shuffle: int | None = None) -> FaceSet:
    """A set whose image (i, j) of identity i shows its own number; optionally with the images in a random order."""
    identity = np.repeat(np.arange(len(counts), dtype=np.int32), list(counts.values()))
    if shuffle is not None:
        identity = np.random.default_rng(shuffle).permutation(identity).astype(np.int32)
    images = np.arange(len(identity), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return FaceSet(images, identity, tuple(counts))


def crowd(n: int = 40) -> dict[str, int]:
    """Names from two sources, with 1 to 9 images each."""
    return {f"{'ab'[i % 2]}/{i:03d}": 1 + i % 9 for i in range(n)}


def names(faces: FaceSet, people: np.ndarray) -> list[str]:
    return [faces.names[i] for i in people]


def by_name(split: Split, faces: FaceSet) -> dict:
    return splits.to_json(split, faces)


def equal(one: Split, other: Split) -> bool:
    return all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name))
        and getattr(one, f.name).dtype == getattr(other, f.name).dtype
        for f in dataclasses.fields(Split)
    )


def test_parts_are_disjoint_and_complete() -> None:
    faces = faces_of(crowd(), shuffle=1)
    split = make_split(faces, SMALL)
    parts = [split.protected, split.generator, split.validation, split.surrogate, split.target]
    assert [len(part) for part in parts] == [4, 5, 3, 6, 2]
    rest = np.unique(faces.identity[split.distractors])
    everyone = np.concatenate([*parts, rest])
    np.testing.assert_array_equal(np.sort(everyone), np.arange(len(faces.names)))
    assert sorted(split.distractors) == [k for k in range(len(faces)) if faces.identity[k] in rest]
    for field in dataclasses.fields(Split):
        assert getattr(split, field.name).dtype == np.int32, field.name


def test_images_belong_to_their_persons_and_never_repeat() -> None:
    faces = faces_of(crowd(), shuffle=2)
    split = make_split(faces, SMALL)
    own = np.concatenate([split.inference, split.test], axis=1)
    assert split.inference.shape == (4, 3)
    assert split.test.shape == (4, 2)
    assert split.generator_images.shape == (5, 4)
    np.testing.assert_array_equal(faces.identity[own], np.repeat(split.protected[:, None], 5, 1))
    np.testing.assert_array_equal(faces.identity[split.generator_images], np.repeat(split.generator[:, None], 4, 1))
    assert len(np.unique(own)) == own.size
    assert len(np.unique(split.generator_images)) == split.generator_images.size


def test_enough_images_for_each_part() -> None:
    faces = faces_of(crowd(90), shuffle=3)
    counts = faces.counts()
    split = make_split(faces, dataclasses.replace(SMALL, min_images=5, surrogate=10))
    assert counts[split.protected].min() >= 5
    assert counts[split.generator].min() >= 5  # min_images beats generator_images
    assert counts[split.validation].min() >= 5
    assert counts[split.surrogate].min() >= 5
    ones = make_split(faces, dataclasses.replace(SMALL, min_images=1, validation=20, surrogate=30))
    assert counts[ones.validation].min() >= 2
    assert counts[ones.surrogate].min() == 1


def test_the_seed_decides_and_repeats() -> None:
    faces = faces_of(crowd())
    assert equal(make_split(faces, SMALL), make_split(faces, SMALL))
    other = make_split(faces, dataclasses.replace(SMALL, seed=1))
    assert names(faces, other.protected) != names(faces, make_split(faces, SMALL).protected)


def test_listing_order_does_not_matter() -> None:
    counts = crowd()
    backwards = dict(reversed(counts.items()))
    faces, reverse = faces_of(counts), faces_of(backwards)
    one, other = by_name(make_split(faces, SMALL), faces), by_name(make_split(reverse, SMALL), reverse)
    assert one == other


def test_new_people_change_nobodys_order() -> None:
    """Of the old people, the protected keep their relative order when others join."""
    faces = faces_of(crowd(40))
    more = faces_of(crowd(60))
    config = dataclasses.replace(SMALL, protected=10)
    before = names(faces, make_split(faces, config).protected)
    after = [n for n in names(more, make_split(more, config).protected) if n in before]
    assert after == [n for n in before if n in after]


def test_target_falls_back_to_the_surrogates_people() -> None:
    split = make_split(faces_of(crowd()), dataclasses.replace(SMALL, target=0))
    np.testing.assert_array_equal(split.target, split.surrogate)


def test_patterns_bind_their_parts() -> None:
    faces = faces_of(crowd(80))
    config = dataclasses.replace(SMALL, protected_from="a/*", generator_from="b/*", surrogate_from="a/*")
    split = make_split(faces, config)
    for part, start in [("protected", "a"), ("generator", "b"), ("validation", "b"), ("surrogate", "a")]:
        assert {n[0] for n in names(faces, getattr(split, part))} == {start}, part
    assert {n[0] for n in names(faces, split.target)} == {"a"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protected": 500}, ["--split.protected 500", "of 40, 20", "at least 5 images", "--data"]),
        ({"protected": 1, "protected_from": "c/*"}, ["--split.protected 1", "0 match 'c/*'"]),
        ({"generator": 30}, ["--split.generator 30", "already dealt to an earlier part"]),
        ({"validation": 39}, ["--split.validation 39"]),
        ({"surrogate": 100}, ["--split.surrogate 100"]),
        ({"target": 100}, ["--split.target 100"]),
        ({"min_images": 10}, ["--split.generator 5", "of 40, 0 have at least 10 images"]),
    ],
)
def test_what_cannot_be_filled_is_named(change: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        make_split(faces_of(crowd()), dataclasses.replace(SMALL, **change))
    for word in words:
        assert word in str(caught.value)


def test_no_distractors_left() -> None:
    faces = faces_of({f"p/{i}": 5 for i in range(20)})
    split = make_split(faces, SMALL)
    assert split.distractors.shape == (0,)
    assert equal(splits.from_json(json.loads(json.dumps(splits.to_json(split, faces))), faces), split)


def test_saved_and_read(tmp_path: Path) -> None:
    faces = faces_of(crowd(), shuffle=4)
    split = make_split(faces, SMALL)
    splits.save(tmp_path / "run" / "split.json", split, faces)
    assert equal(splits.read(tmp_path / "run" / "split.json", faces), split)


def test_read_against_the_same_people_under_other_indices(tmp_path: Path) -> None:
    faces = faces_of(crowd())
    more = faces_of({"0/new": 3} | dict(reversed(crowd().items())))
    splits.save(tmp_path / "split.json", make_split(faces, SMALL), faces)
    again = splits.read(tmp_path / "split.json", more)
    assert by_name(again, more) == by_name(make_split(faces, SMALL), faces)


def test_split_of_other_faces_is_refused(tmp_path: Path) -> None:
    counts = crowd()
    faces = faces_of(counts)
    split = make_split(faces, SMALL)
    path = tmp_path / "split.json"
    splits.save(path, split, faces)
    victim = faces.names[split.protected[0]]
    with pytest.raises(UserError, match=f"{victim} had {counts[victim]} images then and has 0 now"):
        splits.read(path, faces_of({n: c for n, c in counts.items() if n != victim}))
    with pytest.raises(UserError, match=f"{victim} had {counts[victim]} images then and has 1 now"):
        splits.read(path, faces_of(counts | {victim: 1}))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 99}', '{"version": 1}', '{"version": 1, "images": 3}']
)
def test_damaged_split_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(UserError, match=r"split\.json"):
        splits.read(tmp_path / "split.json", faces_of(crowd()))


def test_edited_split_cannot_leak(tmp_path: Path) -> None:
    faces = faces_of(crowd())
    value = by_name(make_split(faces, SMALL), faces)
    value["validation"][0] = value["protected"][0]["name"]
    with pytest.raises(UserError, match="two parts"):
        splits.from_json(value, faces)


def test_absent_split_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        splits.read(tmp_path / "none.json", faces_of(crowd()))


def test_images_with_labels() -> None:
    faces = faces_of(crowd(), shuffle=5)
    people = np.array([7, 2, 30], np.int32)
    indices, labels = images_with_labels(faces, people)
    np.testing.assert_array_equal(faces.identity[indices], people[labels])
    assert len(indices) == faces.counts()[people].sum() == len(np.unique(indices))


def test_a_large_deal_is_quick() -> None:
    """20,000 identities, 200,000 images: nothing quadratic."""
    faces = FaceSet(
        np.zeros((200_000, 1, 1, 1), np.uint8),
        np.arange(200_000, dtype=np.int32) % 20_000,
        tuple(f"s/{i}" for i in range(20_000)),
    )
    split = make_split(faces, SplitConfig(protected=500, n_inference=5, generator=3000, generator_images=8))
    assert len(split.distractors) == 10 * (20_000 - 500 - 3000 - 100 - 5000)
