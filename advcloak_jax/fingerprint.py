"""What results are kept under: hashes of everything that decides them, the code included."""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import advcloak_jax

PACKAGE = advcloak_jax.__name__
_PACKAGES = ("jax", "jaxlib", "flax", "numpy")
_CHUNK = 1 << 24


def of_array(array: np.ndarray) -> str:
    """Hash of an array's shape, type and bytes; large ones are read in parts, so a memory map stays on disk."""
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    rows = max(1, _CHUNK // max(1, array[:1].nbytes)) if array.ndim else 1
    for start in range(0, len(array) if array.ndim else 1, rows):
        digest.update(np.ascontiguousarray(array[start : start + rows] if array.ndim else array).data)
    return digest.hexdigest()


def of_tree(tree: Any) -> str:
    """Hash of a pytree of arrays: their paths, shapes, types and bytes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return of_value([[jax.tree_util.keystr(path), of_array(np.asarray(leaf))] for path, leaf in leaves])


def of_file(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def of_value(value: Any) -> str:
    """Hash of a JSON value; the order of keys does not matter. Raises TypeError for what JSON cannot hold."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


@functools.cache
def of_code(module: str) -> str:
    """Hash of a module's source with all of this package that it imports, directly or not, and of what computes.

    So a result is computed anew after any change of the code that made it, and after no other.
    """
    pending, sources = [module], dict[str, str]()
    while pending:
        name = pending.pop()
        if name in sources or (path := _source(name)) is None:
            continue
        text = path.read_text(encoding="utf-8")
        sources[name] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        pending += _imports(text)
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return of_value([sources, versions, jax.default_backend()])


def _source(module: str) -> Path | None:
    """The file of a module, or None when there is no such module (the name is of something inside one)."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _imports(text: str) -> list[str]:
    """Names of this package that a source imports; of `from a import b` both a and a.b, whichever is a module."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.split(".")[0] == PACKAGE]
