"""Tensors as a file describes them (a part of a storage, with strides), and the arrays they stand for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby

import ml_dtypes
import numpy as np

from advcloak_jax.errors import UserError

ELEMENTS: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("u1"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "UntypedStorage": np.dtype("u1"),
}
"""Element type by PyTorch's name of the storage. Booleans are bytes: a damaged one need not be 0 or 1."""
NEW_ELEMENTS: dict[str, np.dtype] = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
}
"""Element type by PyTorch's name of it, for the types that have no storage of their own."""

MOST_ELEMENTS = 2**40
MOST_DIMENSIONS = 32
MOST_COPIES = 8
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Storage:
    """A run of elements in the file: `count` of them from `start` on, of the `total` kept under `key`."""

    key: str
    kind: str
    total: int
    start: int
    count: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A strided view (in elements) of a storage; `dtype` where the storage is untyped."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: np.dtype | None = None

    @property
    def ndim(self) -> int:
        return len(self.size)


def checked_storage(kind: object, key: object, total: object, view: object = None) -> Storage:
    """A storage from a file's own words. Raises ValueError when they make none."""
    if not (isinstance(kind, str) and kind in ELEMENTS and isinstance(key, str)):
        raise ValueError("a storage of an unknown type")
    total = _count(total)
    if view is None:
        return Storage(key, kind, total, 0, total)
    if not (isinstance(view, tuple) and len(view) == 3):
        raise ValueError("a view of a storage that is none")
    start, count = _count(view[1]), _count(view[2])
    if start + count > total:
        raise ValueError("a view that is longer than its storage")
    return Storage(key, kind, total, start, count)


def checked_tensor(storage: object, offset: object, size: object, stride: object, dtype: str = "") -> Tensor:
    """A tensor from a file's own words. Raises ValueError when it does not lie within its storage."""
    if not (isinstance(storage, Storage) and isinstance(size, tuple) and isinstance(stride, tuple)):
        raise ValueError("a tensor without a storage, size or stride")
    if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
        raise ValueError("a tensor whose strides do not belong to its size")
    sizes, strides, first = tuple(map(_count, size)), tuple(map(_count, stride)), _count(offset)
    if dtype and dtype not in NEW_ELEMENTS:
        raise ValueError("a tensor of an unknown type")
    element = NEW_ELEMENTS[dtype] if dtype else ELEMENTS[storage.kind]
    count = storage.count * ELEMENTS[storage.kind].itemsize // element.itemsize
    elements = math.prod(sizes)
    # A view may repeat elements (stride 0), but a tensor that is larger than its storage is no weight.
    if elements > count or (elements == 0 and math.prod(max(1, n) for n in sizes) > MOST_ELEMENTS):
        raise ValueError("a tensor that is larger than its storage")
    if elements and first + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) >= count:
        raise ValueError("a tensor that reaches beyond its storage")
    return Tensor(storage, first, sizes, strides, element if dtype else None)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MOST_ELEMENTS:
        raise ValueError("a size, stride or offset that is no count")
    return value


def to_arrays(
    tensors: Mapping[str, Tensor], raw: Callable[[str], bytes | memoryview], source: str, file_bytes: int
) -> dict[str, np.ndarray]:
    """The tensors' values; raw: a storage's key to its bytes, asked for once a storage.

    Raises UserError when the tensors would take far more memory than the file has, and when a storage's length in the
    file is not the one its tensors were given.
    """
    claimed = sum(math.prod(tensor.size) * _element(tensor).itemsize for tensor in tensors.values())
    if claimed > MOST_COPIES * file_bytes:
        raise UserError(f"{source} is refused: its tensors claim {claimed:,} bytes, the file has {file_bytes:,}.")
    arrays: dict[str, np.ndarray] = {}
    ordered = sorted(tensors.items(), key=lambda item: item[1].storage.key)
    for key, group in groupby(ordered, key=lambda item: item[1].storage.key):
        data = raw(key)
        for name, tensor in group:
            if len(data) != tensor.storage.total * ELEMENTS[tensor.storage.kind].itemsize:
                raise UserError(f"{source} is damaged: the storage of its tensor {name!r} has another length.")
            arrays[name] = plain(_view(tensor, data).copy(), name, source)
    return {name: arrays[name] for name in tensors}


def _element(tensor: Tensor) -> np.dtype:
    return tensor.dtype or ELEMENTS[tensor.storage.kind]


def _view(tensor: Tensor, data: bytes | memoryview) -> np.ndarray:
    """The strided view, whose limits `checked_tensor` has checked."""
    if math.prod(tensor.size) == 0:
        return np.zeros(tensor.size, _element(tensor))
    storage, element = tensor.storage, _element(tensor)
    width = ELEMENTS[storage.kind].itemsize
    part = memoryview(data)[storage.start * width : (storage.start + storage.count) * width]
    strides = [step * element.itemsize for step in tensor.stride]
    return np.ndarray(tensor.size, element, part, tensor.offset * element.itemsize, strides)


def plain(array: np.ndarray, name: str, source: str) -> np.ndarray:
    """Floats of any width as float32 (too large ones become infinite), integers as they are."""
    if array.dtype.name in FLOATS:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.ascontiguousarray(array.astype(np.float32, copy=False)).reshape(array.shape)
    if array.dtype.kind in "iub":
        return array
    raise UserError(f"{source} holds {name!r} as {array.dtype.name}; save it as float32.")
