"""A black box in an ONNX file, through onnxruntime."""

import copy
import dataclasses
import importlib.metadata
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advcloak_jax import fingerprint
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.onnx_spec import OnnxSpec
from advcloak_jax.evaluation.targets import pad, require_faces, unit_norm
from advcloak_jax.recognizers.convention import Convention, describe


class OnnxTarget:
    """A network in an ONNX file, through onnxruntime.

    Layout and input size are the graph's, else the spec's, else channels first and 112. The faces are centre-cropped
    to the input's aspect (112 x 96 takes columns 8..103) and, where the size differs, resized as uint8 by Pillow's
    bicubic.
    """

    def __init__(self, spec: OnnxSpec, *, batch: int = 64, threads: int = 0) -> None:
        """`batch` faces at a time where the graph leaves that open, else as many as it wants; threads 0: all cores.

        Raises UserError when onnxruntime is missing, the file is no network, or its input is no RGB image.
        """
        self.name = spec.name
        self._spec = spec
        self._session = open_session(spec.path, threads)
        inputs = self._session.get_inputs()
        shape, kind = inputs[0].shape, inputs[0].type
        if len(inputs) != 1 or len(shape) != 4 or kind not in _DTYPES or not _takes_rgb(shape, spec.layout):
            found = "; ".join(f"{one.name} {one.shape} {one.type}" for one in inputs)
            raise UserError(f"{spec.path} should take one batch of float RGB images [n, 3, H, W], not: {found}.")
        self._input, self._dtype = inputs[0].name, _DTYPES[kind]
        self._channels_first = spec.layout == "nchw" if spec.layout else shape[1] == 3
        sides = shape[2:] if self._channels_first else shape[1:3]
        fixed = [side if isinstance(side, int) and side > 0 else 0 for side in sides]
        height, width = (side or asked for side, asked in zip(fixed, spec.size or (112, 112), strict=True))
        self._size = (height, width)
        if spec.size is not None and self._size != spec.size:
            raise UserError(f"{spec.path} takes {self._size[0]}x{self._size[1]} faces; drop size= or correct it.")
        self._fixed = isinstance(shape[0], int) and shape[0] > 0
        self._batch = shape[0] if self._fixed else batch

    @property
    def reads(self) -> str:
        """One line about what the network reads."""
        return describe(self.convention)

    @property
    def convention(self) -> Convention:
        """What the network is fed."""
        return Convention(self._spec.mean, self._spec.std, self._spec.channels, self._size)

    def with_convention(self, convention: Convention) -> "OnnxTarget":
        """The same network, fed by another scale and channel order; its input size is its own."""
        other = copy.copy(self)
        other._spec = dataclasses.replace(
            self._spec, mean=convention.mean, std=convention.std, channels=convention.channels
        )
        return other

    def fingerprint(self) -> str | None:
        """Hash of the file, of how it is fed and of what runs it; None when its weights are in other files."""
        if _EXTERNAL_WEIGHTS in self._spec.path.read_bytes():
            return None
        fed = dataclasses.asdict(self._spec) | {"path": fingerprint.of_file(self._spec.path), "name": ""}
        runs = [importlib.metadata.version("onnxruntime"), self._session.get_providers()]
        return fingerprint.of_value([fed, runs, fingerprint.of_code(__name__)])

    def parameters(self) -> int | None:
        """Numbers in the file's initialisers, or None when the onnx package, which reads them, is not installed."""
        try:
            import onnx
        except ImportError:
            return None
        return sum(math.prod(one.dims) for one in onnx.load(str(self._spec.path)).graph.initializer)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """[B, H, W, 3] uint8 RGB -> [B, d] float32 of unit norm.

        Raises UserError when the network fails or does not give finite [B, d], or only zeros for a face, ValueError for
        no or other images.
        """
        require_faces(images)
        blocks = [images[start : start + self._batch] for start in range(0, len(images), self._batch)]
        features = np.concatenate([self._features(block) for block in blocks])
        return unit_norm(self.name, features)

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
        padded = pad(images, self._batch) if self._fixed else images
        features = self._run(self.preprocess(padded))
        if self._spec.flip:
            features = features + self._run(self.preprocess(padded[:, :, ::-1]))
        return features[: len(images)]

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        try:
            features = self._session.run(None, {self._input: pixels})[0]
        except Exception as error:  # onnxruntime's own exception classes are not public
            raise UserError(f"{self._spec.path} failed on images {pixels.shape}: {first_line(error)}") from error
        if features.ndim != 2 or len(features) != len(pixels):
            raise UserError(
                f"{self._spec.path} should give embeddings [{len(pixels)}, d], not an array {list(features.shape)}."
            )
        return features.astype(np.float32)


def _takes_rgb(shape: list[Any], layout: str) -> bool:
    """Whether an input [n, ., ., .], whose sides may be open (a name or None), can hold RGB in this layout."""
    places = {"nchw": (1,), "nhwc": (3,)}.get(layout)
    return (
        3 in (shape[1], shape[3]) if places is None else not isinstance(shape[places[0]], int) or shape[places[0]] == 3
    )


# The key under which ONNX names the file of a tensor's external data: a string field of ten bytes in the file.
_EXTERNAL_WEIGHTS = b"\n\x08location"
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def open_session(path: Path, threads: int = 0) -> Any:
    """An onnxruntime session, on a GPU where the installed onnxruntime has one; threads 0: all cores.

    Raises UserError when onnxruntime is missing or the file is no network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("ONNX files need onnxruntime: pip install -r requirements-onnx.txt.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's own exception classes are not public
        raise UserError(f"{path} cannot be read as an ONNX network: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
