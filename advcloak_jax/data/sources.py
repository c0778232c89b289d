"""From the text of `--data` to one FaceSet."""

import dataclasses
import difflib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from advcloak_jax.config import BadImage
from advcloak_jax.data.cache import cached_array
from advcloak_jax.data.decode import Progress
from advcloak_jax.data.faceset import FaceSet, concatenate
from advcloak_jax.data.folder import load_folder, printable
from advcloak_jax.data.recordio_source import load_recordio
from advcloak_jax.data.tfds_source import is_directory, load_tfds, parse_spec
from advcloak_jax.errors import UserError

KINDS = ("folder", "recordio", "tfds", "synthetic")
FORMS = "folder:PATH, recordio:PATH, tfds:NAME or synthetic:IDENTITIESxIMAGES"


def load(
    specs: Sequence[str],
    *,
    image_size: int,
    on_bad_image: BadImage,
    cache: Path | None,
    progress: Progress | None = None,
) -> FaceSet:
    """Read every source and join them; identities are named SOURCE/IDENTITY ("celeba/7202", "synthetic/00012").

    specs: `folder:PATH`, `recordio:PATH`, `tfds:NAME[:SPLIT[:IMAGE_KEY:IDENTITY_KEY]]`, `tfds:PREPARED_FOLDER[...]`,
    `synthetic:IDENTITIESxIMAGES[@SEED]`. SOURCE is the folder's or set's own name; where several share one they are
    numbered in the order of their specs' text, so that the order of `specs` changes no name.
    cache: folder that keeps synthetic faces as memory maps; None renders them each time.
    progress: called as progress(label, done, total).
    Raises UserError for an unknown kind, a malformed or doubled source, and whatever the sources refuse.
    """
    if not specs:
        raise UserError(f"No faces given: pass --data {FORMS}.")
    keys = [_person_key(spec) for spec in specs]
    doubled = [spec for spec, key in zip(specs, keys, strict=True) if keys.count(key) > 1]
    if doubled:
        # The same person under two names would be dealt to two parts that must not share people.
        raise UserError(f"--data {' and '.join(doubled)} hold the same people; list only one of them.")
    sets = []
    for spec, prefix in zip(specs, _prefixes(specs), strict=True):
        faces = _load_one(spec, image_size, on_bad_image, cache, progress)
        sets.append(dataclasses.replace(faces, names=tuple(f"{prefix}/{name}" for name in faces.names)))
    return concatenate(sets)


def summary(faces: FaceSet) -> str:
    """One line on a set: "200 identities, 4,023 images (10 to 30 each), 112x112"."""
    counts = faces.counts()
    size = faces.image_size
    return (
        f"{len(faces.names):,} identities, {len(faces):,} images ({counts.min()} to {counts.max()} each), {size}x{size}"
    )


def _load_one(
    spec: str, image_size: int, on_bad_image: BadImage, cache: Path | None, progress: Progress | None
) -> FaceSet:
    kind, text = _split_kind(spec)
    if kind == "folder":
        return load_folder(Path(text).expanduser(), image_size=image_size, on_bad_image=on_bad_image, progress=progress)
    if kind == "recordio":
        path = Path(text).expanduser()
        return load_recordio(path, image_size=image_size, on_bad_image=on_bad_image, progress=progress)
    if kind == "tfds":
        return load_tfds(parse_spec(text), image_size=image_size, on_bad_image=on_bad_image, progress=progress)
    return _load_synthetic(*_parse_synthetic(text), image_size, cache, progress)


def _load_synthetic(
    identities: int, images: int, seed: int, image_size: int, cache: Path | None, progress: Progress | None
) -> FaceSet:
    from advcloak_jax.data import synthetic

    def render() -> np.ndarray:
        faces = synthetic.synthetic_faces(identities, images, seed=seed, image_size=image_size, progress=report)
        return np.asarray(faces.images)

    def report(done: int) -> None:
        if progress is not None:
            progress(f"synthetic:{identities}x{images}", done, identities * images)

    if cache is None:
        pixels = render()
    else:
        shape = (identities * images, image_size, image_size, 3)
        version = getattr(synthetic, "VERSION", 0)
        text = f"{identities} {images} {seed} {image_size} {version}"
        path = cache / f"synthetic-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"
        pixels = cached_array(path, shape, render)
    names = tuple(f"{number:05d}" for number in range(identities))
    return FaceSet(pixels, np.repeat(np.arange(identities, dtype=np.int32), images), names)


def _split_kind(spec: str) -> tuple[str, str]:
    kind, colon, text = spec.partition(":")
    if kind in KINDS and text:
        return kind, text
    if kind in KINDS:
        raise UserError(f"--data {spec} is incomplete; it must be {FORMS}.")
    if os.path.isdir(spec):
        raise UserError(f"--data {spec} lacks its kind; did you mean folder:{spec}?")
    near = difflib.get_close_matches(kind.lower(), KINDS, n=1, cutoff=0.4) if colon else []
    hint = f"did you mean {near[0]}:{text}?" if near else f"it must be {FORMS}."
    raise UserError(f"--data {spec} is of no known kind; {hint}")


def _parse_synthetic(text: str) -> tuple[int, int, int]:
    """identities, images of each, seed."""
    match = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})(?:@(\d{1,9}))?", text)
    if match is None:
        raise UserError(f"--data synthetic:{text} must be synthetic:IDENTITIESxIMAGES[@SEED], like synthetic:200x20.")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def _person_key(spec: str) -> tuple[str, ...]:
    """Equal for two sources that hold the same people for certain."""
    kind, text = _split_kind(spec)
    if kind in ("folder", "recordio"):
        return kind, os.path.realpath(os.path.expanduser(text))
    if kind == "synthetic":
        return kind, str(_parse_synthetic(text)[2])
    return kind, parse_spec(text).name  # two splits of one set may share people; TRAIN+TEST joins them by name


def _prefixes(specs: Sequence[str]) -> list[str]:
    """A source name for each spec, all different."""
    plain = {spec: _own_name(spec) for spec in specs}
    shared = {name for name, times in Counter(plain.values()).items() if times > 1}
    taken = set(plain.values()) - shared
    chosen: dict[str, str] = {}
    for spec in sorted(specs):
        name, number = plain[spec], 1
        while name in taken and plain[spec] in shared:
            number += 1
            name = f"{plain[spec]}-{number}"
        taken.add(name)
        chosen[spec] = name
    return [chosen[spec] for spec in specs]


def _own_name(spec: str) -> str:
    kind, text = _split_kind(spec)
    if kind in ("folder", "recordio"):
        path = Path(os.path.abspath(os.path.expanduser(text)))
        own = path.parent if path.suffix == ".rec" else path
        return printable(own.name) or kind
    if kind == "synthetic":
        return "synthetic"
    name = parse_spec(text).name
    if is_directory(name):  # .../my_faces/1.0.0: the set's name is above its version
        parts = Path(os.path.abspath(os.path.expanduser(name))).parts
        return parts[-2] if re.fullmatch(r"\d+\.\d+\.\d+", parts[-1]) and len(parts) > 2 else parts[-1]
    return name.partition(":")[0].partition("/")[0]
