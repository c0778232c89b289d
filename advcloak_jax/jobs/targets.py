"""Targets by what the user writes: a run folder, onnx:FILE or python:MODULE:FUNCTION."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from advcloak_jax import fingerprint
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.callable_target import load_callable
from advcloak_jax.evaluation.onnx_spec import parse_onnx
from advcloak_jax.evaluation.onnx_target import OnnxTarget
from advcloak_jax.evaluation.store import Store
from advcloak_jax.evaluation.targets import FlaxTarget, Target
from advcloak_jax.jobs.inputs import load_recognizer
from advcloak_jax.progress import Progress
from advcloak_jax.recognizers.recognizer import Recognizer
from advcloak_jax.training import distributed

EMBEDDED_AT_A_TIME = 256


@dataclasses.dataclass(frozen=True)
class LoadedTarget:
    """A target, the run it comes from (None for ONNX), and the persons it was trained on, as far as that is known.

    recognizer: what can be differentiated, of a run folder.
    """

    target: Target
    folder: Path | None
    image_size: int | None
    trained_on: frozenset[str]
    recognizer: Recognizer | None = None

    @functools.cached_property
    def fingerprint(self) -> str | None:
        """The target's, which takes a pass over its weights."""
        return self.target.fingerprint()


def load_target(spec: str, name: str = "--targets") -> LoadedTarget:
    """The recogniser that `spec` names: a run folder, onnx:FILE or python:MODULE:FUNCTION. Raises UserError if none."""
    if spec.startswith("onnx:"):
        return LoadedTarget(OnnxTarget(parse_onnx(spec)), None, None, frozenset())
    if spec.startswith("python:"):
        return LoadedTarget(load_callable(spec), None, None, frozenset())
    loaded = load_recognizer(spec, name)
    target = FlaxTarget(loaded.label, loaded.recognizer.module, loaded.recognizer.variables)
    return LoadedTarget(target, loaded.folder, loaded.image_size, loaded.trained_on, loaded.recognizer)


def load_targets(specs: tuple[str, ...], image_size: int) -> list[LoadedTarget]:
    """All targets, with different names. Raises UserError when one takes another image size than the faces have."""
    loaded = [load_target(spec) for spec in specs]
    names = [one.target.name for one in loaded]
    for spec, one in zip(specs, loaded, strict=True):
        if one.image_size not in (None, image_size):
            raise UserError(f"--targets {spec} takes {one.image_size}-pixel faces, these have {image_size}; drop it.")
        if names.count(one.target.name) > 1:
            raise UserError(f"two of --targets are called {one.target.name}; give one of them another name.")
    return loaded


def require_unseen(target: LoadedTarget, persons: list[str]) -> None:
    """Raise UserError when the target was trained on one of these persons: a network never tests what it trained."""
    seen = sorted(target.trained_on.intersection(persons))
    if seen:
        others = f" and {len(seen) - 1} more of the persons to be tested" if len(seen) > 1 else ", who is to be tested"
        raise UserError(
            f"{target.target.name} was trained on {seen[0]}{others}; train it on other people or test others."
        )


@dataclasses.dataclass(frozen=True)
class Faces:
    """Faces [B, H, W, 3] uint8 with the hash of their bytes and what they are called in the account of the store."""

    images: np.ndarray
    fingerprint: str
    label: str


def hashed(images: np.ndarray, label: str) -> Faces:
    """Faces [..., H, W, 3] in one row."""
    flat = images.reshape(-1, *images.shape[-3:])
    return Faces(flat, fingerprint.of_array(flat), label)


def stored_embeddings(store: Store, loaded: LoadedTarget, faces: Faces, progress: Progress) -> np.ndarray:
    """Embeddings [B, d] of faces, taken from the store where it has them."""
    total = len(faces.images)

    def make() -> np.ndarray:
        nonlocal total
        total = 0
        return embed(loaded.target, faces.images, progress)

    key = None if loaded.fingerprint is None else {"target": loaded.fingerprint, "faces": faces.fingerprint}
    found = store.array("embeddings", f"{faces.label}, by {loaded.target.name}", key, make)
    progress.update(total, loaded.target.name)
    return found


def embed(target: Target, images: np.ndarray, progress: Progress) -> np.ndarray:
    """Embeddings [B, d] of faces [B, H, W, 3] uint8, with progress. Several processes share the work."""

    def make(i: int) -> np.ndarray:
        block = images[i * EMBEDDED_AT_A_TIME : (i + 1) * EMBEDDED_AT_A_TIME]
        progress.update(len(block), target.name)
        return target.embed(block)

    before = progress.done
    blocks = distributed.gather_blocks(-(-len(images) // EMBEDDED_AT_A_TIME), make)
    progress.update(before + len(images) - progress.done, target.name)
    return np.concatenate(blocks)
