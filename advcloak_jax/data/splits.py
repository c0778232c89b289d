"""Who plays which part: a deal of the identities into disjoint parts, and of the protected persons' images.

The deal depends on the seed and on the identities' names only: an identity's rank is a hash of both. So it does not
matter in which order sources are listed, and adding people changes nobody's rank.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from advcloak_jax import files
from advcloak_jax.config import SplitConfig
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.errors import UserError

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Split:
    """Indices into one FaceSet, all int32; people are identity indices, images are image indices.

    protected [P] people whose images are protected and probed, inference [P, N] and test [P, T] their images; the rest
    of their images is used for nothing.
    generator [G] people of stages I and II, generator_images [G, K] the images of each that stage II uses.
    validation, surrogate, target [.] people. target is surrogate itself when none were asked for.
    distractors [M] images of everybody else.
    """

    protected: np.ndarray
    inference: np.ndarray
    test: np.ndarray
    generator: np.ndarray
    generator_images: np.ndarray
    validation: np.ndarray
    surrogate: np.ndarray
    target: np.ndarray
    distractors: np.ndarray


def make_split(faces: FaceSet, config: SplitConfig) -> Split:
    """Deal the identities to protected, generator, validation, surrogate and target, in this order.

    Everyone left, eligible or not, distracts. Deterministic in config.seed and the identities' names; no identity is
    in two parts (but target equals surrogate when config.target is 0).
    Raises UserError naming the setting when a part cannot be filled.
    """
    images = _images_by_identity(faces)
    waiting = sorted(range(len(faces.names)), key=lambda identity: _rank(config.seed, faces.names[identity]))

    def deal(flag: str, wanted: int, pattern: str, least: int) -> np.ndarray:
        able = [i for i in waiting if len(images[i]) >= least and fnmatchcase(faces.names[i], pattern)]
        if len(able) < wanted:
            raise UserError(_shortage(faces, images, flag, wanted, pattern, least, len(able)))
        dealt = set(able[:wanted])
        waiting[:] = [i for i in waiting if i not in dealt]
        return np.array(able[:wanted], np.int32)

    per_person = config.n_inference + config.n_test
    protected = deal("protected", config.protected, config.protected_from, per_person)
    generator = deal(
        "generator", config.generator, config.generator_from, max(config.generator_images, config.min_images)
    )
    validation = deal("validation", config.validation, config.generator_from, max(config.min_images, 2))
    surrogate = deal("surrogate", config.surrogate, config.surrogate_from, config.min_images)
    target = deal("target", config.target, config.surrogate_from, config.min_images) if config.target else surrogate

    def draw(people: np.ndarray, count: int) -> np.ndarray:
        return np.stack([images[i][_shuffled(config.seed, faces.names[i], len(images[i]))[:count]] for i in people])

    own = draw(protected, per_person)
    return Split(
        protected=protected,
        inference=own[:, : config.n_inference],
        test=own[:, config.n_inference :],
        generator=generator,
        generator_images=draw(generator, config.generator_images),
        validation=validation,
        surrogate=surrogate,
        target=target,
        distractors=_joined([images[i] for i in waiting]),
    )


def images_with_labels(faces: FaceSet, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every image of `people` [C]: image indices [n] int32, and labels [n] int32 in 0..C-1 by place in `people`."""
    images = _images_by_identity(faces)
    own = [images[i] for i in people]
    labels = np.repeat(np.arange(len(own), dtype=np.int32), [len(indices) for indices in own])
    return _joined(own), labels


def save(path: Path, split: Split, faces: FaceSet) -> None:
    """Write a split as JSON, whole or not at all."""
    files.write_json(path, to_json(split, faces))


def read(path: Path, faces: FaceSet) -> Split:
    """Read what `save` wrote, for the same faces. Raises UserError when it is absent, damaged or does not fit them."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read the split {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not a split: {error}.") from error
    return from_json(value, faces, str(path))


def to_json(split: Split, faces: FaceSet) -> dict[str, Any]:
    """The split by names, and by places of images among their identity's, so that it outlives index changes.

    "images" tells how many images each identity named had, because a place means nothing among other images.
    """
    images = _images_by_identity(faces)
    counts = faces.counts()
    place = np.zeros(len(faces), np.int64)
    for own in images:
        place[own] = np.arange(len(own))

    def named(people: np.ndarray) -> list[str]:
        return [faces.names[i] for i in people]

    used = np.unique(faces.identity[split.distractors]) if len(split.distractors) else np.zeros(0, np.int32)
    everyone = np.unique(np.concatenate([_people(split), used]))
    return {
        "version": VERSION,
        "images": {faces.names[i]: int(counts[i]) for i in everyone},
        "protected": [
            {"name": faces.names[i], "inference": place[inference].tolist(), "test": place[test].tolist()}
            for i, inference, test in zip(split.protected, split.inference, split.test, strict=True)
        ],
        "generator": [
            {"name": faces.names[i], "images": place[own].tolist()}
            for i, own in zip(split.generator, split.generator_images, strict=True)
        ],
        "validation": named(split.validation),
        "surrogate": named(split.surrogate),
        "target": named(split.target),
        "distractors": named(_unique_in_order(faces.identity[split.distractors])),
    }


def from_json(value: Any, faces: FaceSet, origin: str = "split") -> Split:
    """Undo `to_json`; the order of people and images is kept. `origin` is named in errors.

    Raises UserError when an identity is missing, has another number of images than then, or is in two parts.
    """
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise UserError(f"{origin} is not a split of version {VERSION}; make the run again.")
    images = _images_by_identity(faces)
    number = {name: i for i, name in enumerate(faces.names)}
    try:
        for name, count in value["images"].items():
            have = len(images[number[name]]) if name in number else 0
            if have != count:
                raise UserError(
                    f"{origin} does not fit these faces: {name} had {count} images then and has {have} now; "
                    "pass the same --data or start a new run."
                )

        def people(names: Sequence[str]) -> np.ndarray:
            return np.array([number[name] for name in names], np.int32)

        def chosen(part: str, key: str) -> np.ndarray:
            return np.array([images[number[entry["name"]]][entry[key]] for entry in value[part]], np.int32)

        split = Split(
            protected=people([entry["name"] for entry in value["protected"]]),
            inference=chosen("protected", "inference"),
            test=chosen("protected", "test"),
            generator=people([entry["name"] for entry in value["generator"]]),
            generator_images=chosen("generator", "images"),
            validation=people(value["validation"]),
            surrogate=people(value["surrogate"]),
            target=people(value["target"]),
            distractors=_joined([images[i] for i in people(value["distractors"])]),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{origin} is damaged ({type(error).__name__}: {error}); make the run again.") from error
    _check_disjoint(split, faces, origin)
    return split


def _check_disjoint(split: Split, faces: FaceSet, origin: str) -> None:
    dealt = np.concatenate([_people(split), np.unique(faces.identity[split.distractors])])
    people, times = np.unique(dealt, return_counts=True)
    if times.max() > 1:
        raise UserError(f"{origin} deals {faces.names[people[times.argmax()]]} to two parts; make the run again.")


def _people(split: Split) -> np.ndarray:
    """Everyone dealt to a part, once for each part (target counts only where it differs from surrogate)."""
    target = split.target[:0] if np.array_equal(split.target, split.surrogate) else split.target
    return np.concatenate([split.protected, split.generator, split.validation, split.surrogate, target])


def _images_by_identity(faces: FaceSet) -> list[np.ndarray]:
    """Image indices of each identity, ascending."""
    order = np.argsort(faces.identity, kind="stable").astype(np.int32)
    return np.split(order, np.cumsum(faces.counts())[:-1])


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32)


def _unique_in_order(values: np.ndarray) -> np.ndarray:
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)]


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()


def _rank(seed: int, name: str) -> tuple[bytes, str]:
    return _hash(seed, name), name


def _shuffled(seed: int, name: str, count: int) -> np.ndarray:
    """A permutation of one identity's images, [count]; raw words because NumPy keeps only those between versions."""
    key = np.frombuffer(_hash(seed, f"images of {name}"), np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")


def _shortage(
    faces: FaceSet, images: list[np.ndarray], flag: str, wanted: int, pattern: str, least: int, free: int
) -> str:
    able = sum(len(own) >= least and fnmatchcase(name, pattern) for name, own in zip(faces.names, images, strict=True))
    named = "" if pattern == "*" else f" match {pattern!r} and"
    taken = f", {able - free} of them already dealt to an earlier part" if able > free else ""
    return (
        f"--split.{flag} {wanted} asks for more persons than there are: of {len(faces.names)}, {able}{named} have at "
        f"least {least} images{taken}; lower it or add --data."
    )
