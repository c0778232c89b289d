"""Masks and embeddings that are computed once: kept by the hash of everything that decides them."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advcloak_jax import fingerprint
from advcloak_jax.data.cache import read_array, write_array
from advcloak_jax.errors import UserError
from advcloak_jax.training import distributed

_log = logging.getLogger("advcloak_jax")


class Store:
    """Arrays in a folder by the hash of their key, with a record of what was computed and what was taken.

    `computed` and `taken` list, per kind of result, the labels of those asked for. Without a folder nothing is kept.
    Of several processes the first says what is there, as computing may need all of them; it alone writes.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._asked = 0
        self.computed: dict[str, list[str]] = {}
        self.taken: dict[str, list[str]] = {}

    def array(self, kind: str, label: str, key: Mapping[str, Any] | None, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array that `key`, a JSON value, decides: taken if it is there and whole, else made and kept.

        kind: the sub-folder. key None says that nothing tells whether a kept result would still be true, as of a
        function of the user's: it is made every time. Raises UserError when it cannot be written.
        """
        if self.folder is None or key is None:
            self.computed.setdefault(kind, []).append(label)
            return make()
        path = self.folder / kind / f"{fingerprint.of_value(key)}.npy"
        kept = read_array(path)
        self._asked += 1
        if distributed.share(f"store/{self._asked}", lambda: kept is not None):
            if kept is None:
                raise UserError(f"{path} is seen by one process and not by another; put --cache on a shared disk.")
            self.taken.setdefault(kind, []).append(label)
            return kept
        if kept is None and path.exists():
            _log.warning("%s is damaged and is made again", path)
        self.computed.setdefault(kind, []).append(label)
        array = make()
        if distributed.writes():
            write_array(path, array)
        return array

    def account(self) -> dict[str, dict[str, list[str]]]:
        """Kind -> "computed" and "taken" -> labels in the order asked for, each once."""
        kinds = sorted({*self.computed, *self.taken})
        return {
            kind: {
                "computed": list(dict.fromkeys(self.computed.get(kind, []))),
                "taken": list(dict.fromkeys(self.taken.get(kind, []))),
            }
            for kind in kinds
        }

    def summary(self) -> str:
        """The account in a line: how many of each kind were computed and taken."""
        counts = [
            f"{kind}: {len(self.computed.get(kind, []))} computed, {len(self.taken.get(kind, []))} taken"
            for kind in sorted({*self.computed, *self.taken})
        ]
        where = "nothing is kept" if self.folder is None else f"kept in {self.folder}"
        return f"{'; '.join(counts)} ({where})."
