"""A network's variables as one safetensors file, with names and axes that any framework can follow."""

import hashlib
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np
import safetensors.numpy

from advcloak_jax.errors import UserError
from advcloak_jax.files import replacing
from advcloak_jax.recognizers.weights.safetensors_file import read_safetensors

PyTree = Any
FILE = "weights.safetensors"
SEPARATOR = "."

AXES = {
    ("kernel", 4): "kernel rows, kernel columns, inputs (of a group), outputs",
    ("kernel", 2): "inputs, outputs; inputs of a flattened map in the order rows, columns, channels",
    ("scale", 3): "rows, columns, channels",
    ("bias", 3): "rows, columns, channels",
    ("table", 3): "1, tokens, channels",
    ("noise", 4): "1, rows, columns, channels",
    ("mask", 3): "rows, columns, channels",
}
"""Axes of a tensor by its last name and their number; vectors have one number per channel."""


def tensors(variables: PyTree) -> dict[str, np.ndarray]:
    """Arrays of a Flax variables dict by their paths joined with dots: "params.block_0.conv_0.kernel"."""
    flat = flax.traverse_util.flatten_dict(dict(variables), sep=SEPARATOR)
    # Transposed arrays would be written as they lie in memory.
    return {name: np.ascontiguousarray(value) for name, value in flat.items()}


def describe(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Shape and axes of every tensor, for the JSON file beside."""

    def axes(name: str, array: np.ndarray) -> str:
        if array.ndim == 1:
            return "channels"
        return AXES.get((name.rpartition(SEPARATOR)[2], array.ndim), "as the network has it")

    return {name: {"shape": list(array.shape), "axes": axes(name, array)} for name, array in arrays.items()}


def write(folder: Path, arrays: dict[str, np.ndarray]) -> str:
    """Write the tensors to a folder; returns the SHA-256 of the file."""
    path = folder / FILE
    with replacing(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(folder: Path, sha256: str) -> PyTree:
    """The Flax variables of `write`. Raises UserError when the file is missing or another one."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{path} is missing; export the run again.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path} is not the file that was exported (its SHA-256 differs); export the run again.")
    return flax.traverse_util.unflatten_dict(read_safetensors(data, str(path)), sep=SEPARATOR)
