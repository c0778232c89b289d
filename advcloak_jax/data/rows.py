"""Images by their numbers, wherever they are: in arrays, on disk, several sets joined, or some of them chosen."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Images(Protocol):
    """[n, ...] as a NumPy array has it; what is taken by numbers or by a slice is an array in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole, n first."""
        ...

    @property
    def dtype(self) -> Any:
        """Of every element."""
        ...

    @property
    def ndim(self) -> int:
        """Number of axes."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class Lazy:
    """Base of what is not in memory: `_take` gives rows by their numbers, the rest follows from it."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Rows by number, by numbers of any shape, by a slice or by a mask [n]. Raises IndexError beyond the end."""
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        numbers = np.asarray(index)
        if numbers.dtype == np.bool_:
            if numbers.shape != (len(self),):
                raise IndexError(f"a mask of {numbers.shape} does not fit {len(self)} rows")
            numbers = np.flatnonzero(numbers)
        flat = numbers.reshape(-1).astype(np.int64)
        if len(flat) and (flat.min() < -len(self) or flat.max() >= len(self)):
            raise IndexError(f"rows {flat.min()} to {flat.max()} are not among the {len(self)}")
        taken = self._take(np.where(flat < 0, flat + len(self), flat))
        return taken.reshape(*numbers.shape, *taken.shape[1:])

    def _take(self, numbers: np.ndarray) -> np.ndarray:
        """Rows `numbers` [m] int64 in 0..n-1: [m, ...]."""
        raise NotImplementedError


class Chosen(Lazy):
    """Rows `index` [m, ...] of `images` [n, H, W, C]: [m, ..., H, W, C], taken when they are asked for."""

    def __init__(self, images: Images, index: np.ndarray) -> None:
        super().__init__((*index.shape, *images.shape[1:]), images.dtype)
        self._images, self._index = images, index

    def _take(self, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(self._images[self._index[numbers]])


class _Joined(Lazy):
    """Several sets of rows one after the other."""

    def __init__(self, parts: Sequence[Images]) -> None:
        super().__init__((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def _take(self, numbers: np.ndarray) -> np.ndarray:
        taken = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self._ends, numbers, side="right")
        for number, part in enumerate(self._parts):
            here = owner == number
            if here.any():
                taken[here] = part[numbers[here] - (self._ends[number] - len(part))]
        return taken


def join(parts: Sequence[Images]) -> Images:
    """All of `parts` as one: an array when all are arrays, otherwise taken when they are asked for."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([np.asarray(part) for part in parts])
    return _Joined(parts)
