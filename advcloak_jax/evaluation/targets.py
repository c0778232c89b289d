"""Black boxes under test: whatever turns uint8 faces into embeddings."""

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np
from PIL import Image

from advcloak_jax.errors import UserError
from advcloak_jax.images import to_unit
from advcloak_jax.recognizers.recognizer import embed


class Target(Protocol):
    """Anything that embeds faces; its parameters and gradients are nobody's business here."""

    name: str

    def embed(self, images: np.ndarray) -> np.ndarray:
        """[B, H, W, 3] uint8 RGB -> [B, d] float32 of unit norm."""
        ...


class FlaxTarget:
    """A recogniser of our own, run in blocks of one size so that it is compiled once."""

    def __init__(self, name: str, module: nn.Module, variables: Any, batch: int = 64) -> None:
        """`variables` as the module takes them; `batch` faces are embedded at a time, on the default device."""
        self.name = name
        self._variables = jax.device_put(variables)
        self._batch = batch
        self._embed = jax.jit(lambda variables, images: embed(module, variables, to_unit(images)))

    def with_variables(self, variables: Any) -> "FlaxTarget":
        """The same network with other variables, without compiling it again: a recogniser in training."""
        other = copy.copy(self)
        other._variables = variables
        return other

    def embed(self, images: np.ndarray) -> np.ndarray:
        """[B, H, W, 3] uint8 RGB -> [B, d] float32 of unit norm. Raises ValueError for no or other images."""
        _check(images)
        blocks = [
            self._embed(self._variables, _pad(images[start : start + self._batch], self._batch))
            for start in range(0, len(images), self._batch)
        ]
        return np.concatenate([np.asarray(block) for block in blocks])[: len(images)]


@dataclasses.dataclass(frozen=True)
class OnnxSpec:
    """An ONNX recogniser and how it wants its pixels: (p - mean) / std of p in 0..255, per channel as it gets them.

    `flip` adds the mirrored face's embedding before normalising, as verification protocols do.
    """

    path: Path
    name: str
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    channels: str = "rgb"
    flip: bool = False


def parse_onnx(spec: str) -> OnnxSpec:
    """Read `onnx:FILE.onnx[,mean=M][,std=S][,channels=rgb|bgr][,flip=true|false][,name=NAME]`.

    M and S are one number or one for each channel, separated by "/". The same keys may stand in a JSON file beside the
    network, FILE.onnx.json or FILE.json, where M and S may also be lists; what the spec says goes before it.
    Raises UserError for a missing file, an unknown option or a bad value.
    """
    path_text, *options = spec.removeprefix("onnx:").split(",")
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise UserError(f"There is no ONNX file {path}: name one as onnx:FILE.onnx.")
    values: dict[str, Any] = {}
    for beside in (path.with_suffix(".json"), path.with_name(path.name + ".json")):
        if beside.is_file():
            values |= _read_json(beside)
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            raise UserError(f"'{option}' in '{spec}' should read KEY=VALUE.")
        values[key] = value
    readers: dict[str, Callable[[str, Any], Any]] = {
        "mean": _three,
        "std": _three,
        "channels": _channels,
        "flip": _flag,
        "name": _name,
    }
    unknown = sorted(set(values) - set(readers))
    if unknown:
        raise UserError(
            f"Unknown option '{unknown[0]}' for the ONNX target {path}: the options are {', '.join(readers)}."
        )
    read: dict[str, Any] = {"name": path.stem} | {key: readers[key](key, value) for key, value in values.items()}
    if 0.0 in read.get("std", ()):
        raise UserError(f"std of the ONNX target {path} must not be 0.")
    return OnnxSpec(path, **read)


class OnnxTarget:
    """A network in an ONNX file, through onnxruntime.

    Layout and input size are the graph's (112 where it leaves the size open). The faces are centre-cropped to the
    input's aspect (112 x 96 takes columns 8..103) and, where the size differs, resized as uint8 by Pillow's bicubic.
    """

    def __init__(self, spec: OnnxSpec, *, batch: int = 64, threads: int = 0) -> None:
        """`batch` faces at a time where the graph leaves that open, else as many as it wants; threads 0: all cores.

        Raises UserError when onnxruntime is missing, the file is no network, or its input is no RGB image.
        """
        self.name = spec.name
        self._spec = spec
        self._session = _open(spec.path, threads)
        inputs = self._session.get_inputs()
        shape, kind = inputs[0].shape, inputs[0].type
        if len(inputs) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]) or kind not in _DTYPES:
            found = "; ".join(f"{one.name} {one.shape} {one.type}" for one in inputs)
            raise UserError(f"{spec.path} should take one batch of float RGB images [n, 3, H, W], not: {found}.")
        self._input, self._dtype = inputs[0].name, _DTYPES[kind]
        self._channels_first = shape[1] == 3
        height, width = shape[2:] if self._channels_first else shape[1:3]
        self._size = tuple(size if isinstance(size, int) and size > 0 else 112 for size in (height, width))
        self._fixed = isinstance(shape[0], int) and shape[0] > 0
        self._batch = shape[0] if self._fixed else batch

    def embed(self, images: np.ndarray) -> np.ndarray:
        """[B, H, W, 3] uint8 RGB -> [B, d] float32 of unit norm.

        Raises UserError when the network fails or does not give finite [B, d], ValueError for no or other images.
        """
        _check(images)
        blocks = [images[start : start + self._batch] for start in range(0, len(images), self._batch)]
        features = np.concatenate([self._features(block) for block in blocks])
        norm = np.linalg.norm(features, axis=1, keepdims=True)
        if not np.all(np.isfinite(norm)):
            raise UserError(f"{self._spec.path} gave embeddings that are not finite: check its mean and std.")
        return features / np.maximum(norm, 1e-12)

    def preprocess(self, images: np.ndarray) -> np.ndarray:
        """What the network gets for uint8 RGB [B, H, W, 3]: cropped, resized and scaled, in its layout and type."""
        images = _fit(images, *self._size)
        if self._spec.channels == "bgr":
            images = images[..., ::-1]
        pixels = (images - np.asarray(self._spec.mean, np.float32)) / np.asarray(self._spec.std, np.float32)
        if self._channels_first:
            pixels = pixels.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(pixels, self._dtype)

    def _features(self, images: np.ndarray) -> np.ndarray:
        padded = _pad(images, self._batch) if self._fixed else images
        features = self._run(self.preprocess(padded))
        if self._spec.flip:
            features = features + self._run(self.preprocess(padded[:, :, ::-1]))
        return features[: len(images)]

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        try:
            features = self._session.run(None, {self._input: pixels})[0]
        except Exception as error:  # onnxruntime's own exception classes are not public
            raise UserError(f"{self._spec.path} failed on images {pixels.shape}: {_first_line(error)}") from error
        if features.ndim != 2 or len(features) != len(pixels):
            raise UserError(
                f"{self._spec.path} should give embeddings [{len(pixels)}, d], not an array {list(features.shape)}."
            )
        return features.astype(np.float32)


_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def _open(path: Path, threads: int) -> Any:
    """An onnxruntime session, on a GPU where the installed onnxruntime has one."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("ONNX targets need onnxruntime: pip install -r requirements-onnx.txt.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's own exception classes are not public
        raise UserError(f"{path} cannot be read as an ONNX network: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check(images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(f"uint8 faces [B, H, W, 3] are needed, not {images.dtype} {images.shape}")


def _pad(images: np.ndarray, batch: int) -> np.ndarray:
    """Fill a last block up to `batch` with black images."""
    return np.pad(images, ((0, batch - len(images)), (0, 0), (0, 0), (0, 0)))


def _fit(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest centred window of aspect height : width, resized to it: [B, height, width, 3] uint8."""
    scale = min(images.shape[1] / height, images.shape[2] / width)
    window_height, window_width = height * scale, width * scale
    top, left = (images.shape[1] - window_height) / 2, (images.shape[2] - window_width) / 2
    if scale == 1:  # whole pixels, never interpolated
        return images[:, int(top) : int(top) + height, int(left) : int(left) + width]
    box = (left, top, left + window_width, top + window_height)
    resized = [Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box) for image in images]
    return np.stack([np.asarray(image) for image in resized])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise UserError(f'{path} should hold a JSON object such as {{"mean": 127.5, "std": 128}}.')
    return values


def _three(key: str, value: Any) -> tuple[float, ...]:
    """One number or three, as text or from JSON."""
    parts = value.split("/") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) not in (1, 3) or not all(math.isfinite(number) for number in numbers):
        raise UserError(f"{key}={value} should be one number or three, as in {key}=123.675/116.28/103.53.")
    return numbers * (3 // len(numbers))


def _name(key: str, value: Any) -> str:
    return str(value)


def _channels(key: str, value: Any) -> str:
    if value not in ("rgb", "bgr"):
        raise UserError(f"{key}={value} should be rgb or bgr.")
    return value


def _flag(key: str, value: Any) -> bool:
    flags = {"true": True, "false": False}
    if str(value).lower() not in flags:
        raise UserError(f"{key}={value} should be true or false.")
    return flags[str(value).lower()]
