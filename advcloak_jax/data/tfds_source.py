"""Faces from a TensorFlow Datasets set, read through its random-access data source, without TensorFlow."""

import dataclasses
import difflib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advcloak_jax.config import BadImage
from advcloak_jax.data.decode import BadImageError, Progress, decode_all, settle_bad, to_rgb, warn_resized
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.prepared import is_prepared, open_prepared
from advcloak_jax.errors import UserError

_log = logging.getLogger("advcloak_jax")

IMAGE_KEYS = ("image", "face", "photo", "img")
IDENTITY_KEYS = ("identity", "identity_id", "person", "person_id", "subject", "subject_id", "label", "name", "id")


@dataclasses.dataclass(frozen=True)
class TfdsSpec:
    """What follows `tfds:`; a key is a feature's path ("identity/Identity_No" where nested), "" means find it."""

    name: str
    split: str = ""
    image_key: str = ""
    identity_key: str = ""


def parse_spec(text: str) -> TfdsSpec:
    """Parse NAME[:SPLIT[:IMAGE_KEY:IDENTITY_KEY]].

    NAME may carry TFDS's own configuration and version ("set/config:1.0.0"); SPLIT may be a slice ("train[:10%]").
    Raises UserError for another number of fields or an empty name.
    """
    name, *rest = re.split(r":(?![^\[]*\])", text)
    if rest and re.fullmatch(r"\d+\.[\d*]+\.[\d*]+", rest[0]):
        name = f"{name}:{rest.pop(0)}"
    if not name or len(rest) not in (0, 1, 3):
        raise UserError(f"tfds:{text} is not of the form tfds:NAME, tfds:NAME:SPLIT or tfds:NAME:SPLIT:IMAGE:IDENTITY.")
    return TfdsSpec(name, *rest)


def load_tfds(spec: TfdsSpec, *, image_size: int, on_bad_image: BadImage, progress: Progress | None = None) -> FaceSet:
    """Read a prepared set: a registered name looked up in TFDS's data folder, or the path of a prepared version.

    The set must be in a format with random access (array_record). Without a split all splits are joined. Records come
    in the set's order; identities are sorted by name. TFDS decodes the pictures itself (EXIF orientation is therefore
    not applied); from there they are treated as a folder's, with the same meaning of "refuse" and "skip".
    A set made by `advcloak_jax.data.prepare`, asked for as a whole, stays on disk: see prepared.open_prepared.
    Raises UserError when the set is unknown, not prepared or has no such split or features.
    """
    if spec == TfdsSpec(spec.name) and is_directory(spec.name) and is_prepared(Path(spec.name).expanduser()):
        return open_prepared(Path(spec.name).expanduser(), image_size=image_size, progress=progress)
    label = f"tfds:{spec.name}"
    builder = _open_builder(spec.name)
    leaves = dict(sorted(_leaves(builder.info.features)))
    image_key = _choose(leaves, spec.image_key, IMAGE_KEYS, _is_image, "image", label)
    identity_key = _choose(leaves, spec.identity_key, IDENTITY_KEYS, _is_identity, "identity", label)
    _log.info("%s: images from feature %s, identities from feature %s", label, image_key, identity_key)
    records = _open_records(builder, spec.split, label)
    identity_names: list[str] = [""] * len(records)

    def read(item: int) -> Image.Image:
        try:
            record = records[item]
        except Exception as error:  # decoders answer hostile bytes with nearly any exception
            raise BadImageError(f"cannot be decoded ({error or type(error).__name__})") from error
        identity_names[item] = _name(leaves[identity_key], _get(record, identity_key))
        return _picture(_get(record, image_key), leaves[image_key].shape[-1])

    decoded = decode_all(len(records), read, image_size, label, progress)
    settle_bad([(f"{label} record {item}", reason) for item, reason in decoded.bad], on_bad_image, label)
    if not len(decoded.kept):
        raise UserError(f"{label} has no usable image in split {spec.split or 'all'}.")
    warn_resized(decoded, image_size, label)
    names, identity = np.unique([identity_names[item] for item in decoded.kept], return_inverse=True)
    return FaceSet(decoded.images, identity.astype(np.int32), tuple(names.tolist()))


def is_directory(name: str) -> bool:
    """Whether NAME means a prepared folder and not a registered set."""
    return name.startswith(("/", "./", "../", "~")) or os.path.isfile(os.path.join(name, "dataset_info.json"))


def _open_builder(name: str) -> Any:
    import tensorflow_datasets as tfds  # here, because importing it costs seconds on a cold machine

    folder = _prepared_folder(name) if is_directory(name) else None
    try:
        return tfds.builder_from_directory(folder) if folder else tfds.builder(name)
    except tfds.core.registered.DatasetNotFoundError:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "give a registered name or a prepared set's folder."
        raise UserError(f"TFDS knows no set {name}; {hint}") from None
    except Exception as error:  # a damaged dataset_info.json, an unknown version: TFDS has no common base class
        raise UserError(f"TFDS cannot open {name}: {_first_line(error)}") from error


def _prepared_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist; tfds: wants a prepared set's version folder.")
    if not (folder / "dataset_info.json").is_file():
        inside = sorted(path.parent for path in folder.glob("*/dataset_info.json"))
        hint = f"give {inside[-1]}" if inside else "give the version folder of a prepared set"
        raise UserError(f"{folder} holds no dataset_info.json; {hint}.")
    return folder


def _open_records(builder: Any, split: str, label: str) -> Sequence[Any]:
    chosen = split or "+".join(sorted(builder.info.splits)) or "train"
    try:
        return builder.as_data_source(split=chosen)
    except Exception as error:  # TFDS raises ValueError, RuntimeError, AssertionError ... for want of data
        splits = sorted(builder.info.splits)
        if not splits:
            raise UserError(
                f"{label} is not prepared in {builder.data_dir}: run tensorflow_datasets.builder("
                f"{builder.name!r}, file_format='array_record').download_and_prepare() first."
            ) from error
        if isinstance(error, NotImplementedError):
            raise UserError(
                f"{label} in {builder.data_dir} is stored without random access; prepare it again with "
                "file_format='array_record'."
            ) from error
        raise UserError(
            f"{label} has no readable split {chosen!r} (it has {', '.join(splits)}): {_first_line(error)}"
        ) from error


def _leaves(features: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every feature that is not a dictionary of others, with its path."""
    import tensorflow_datasets as tfds

    if isinstance(features, tfds.features.FeaturesDict):
        for key, feature in features.items():
            yield from _leaves(feature, f"{path}/{key}" if path else key)
    else:
        yield path, features


def _choose(leaves: dict[str, Any], wanted: str, usual: Sequence[str], fits: Any, what: str, label: str) -> str:
    """The wanted feature, else the first of the usual names, else the only one that fits. Raises UserError."""
    able = [path for path, feature in leaves.items() if fits(feature)]
    if wanted:
        if wanted not in able:
            raise UserError(f"{label} has no {what} feature {wanted!r}; it has {', '.join(able) or 'none'}.")
        return wanted
    for name in usual:
        named = [path for path in able if name in path.lower().split("/")]
        if len(named) == 1:
            return named[0]
    if len(able) == 1:
        return able[0]
    found = f"cannot tell which of {', '.join(able)} is it" if able else f"none of {', '.join(leaves)} is one"
    raise UserError(f"{label}: no {what} feature found, {found}; name it as tfds:NAME:SPLIT:IMAGE:IDENTITY.")


def _is_image(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    shape: tuple[int | None, ...] = (
        feature.shape if isinstance(feature, tfds.features.Image | tfds.features.Tensor) else ()
    )
    return len(shape) == 3 and shape[-1] in (1, 3, 4) and feature.np_dtype in (np.uint8, np.uint16)


def _is_identity(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel | tfds.features.Text):
        return True
    return getattr(feature, "shape", None) == () and np.issubdtype(feature.np_dtype, np.integer)


def _get(record: Any, path: str) -> Any:
    for key in path.split("/"):
        record = record[key]
    return record


def _name(feature: Any, value: Any) -> str:
    if hasattr(feature, "int2str"):
        return str(feature.int2str(int(value)))
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _picture(pixels: np.ndarray, channels: int) -> Image.Image:
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[-1] != channels:
        raise BadImageError(f"it has {pixels.shape[-1]} channels where the set declares {channels}")
    return to_rgb(Image.fromarray(pixels))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
