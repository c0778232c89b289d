"""MXNet's two files, written for tests: arrays in every version of the binary list, symbols node by node; and run."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from golden.fill import uniform

from advcloak_jax.recognizers.mxnet.interpreter import run
from advcloak_jax.recognizers.mxnet.symbol import Symbol, parse_symbol
from advcloak_jax.recognizers.mxnet.values import Parameter
from advcloak_jax.recognizers.mxnet.variables import parameters_of, variables_of

SIZE = (6, 8)
FLAGS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
MAGICS = {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}


def array_bytes(array: np.ndarray, version: int = 2, *, storage: int = 0) -> bytes:
    """One array; version 0 is the layout from before the magic numbers."""
    if version == 0:
        head = struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape)
    else:
        kind = struct.pack("<i", storage) if version > 1 else b""
        shape = struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
        head = struct.pack("<I", MAGICS[version]) + kind + shape
    return (
        head
        + struct.pack("<iii", 1, 0, FLAGS[array.dtype.name])
        + array.astype(array.dtype.newbyteorder("<")).tobytes()
    )


def list_bytes(arrays: list[bytes], names: list[str]) -> bytes:
    """The file of encoded arrays and their names."""
    encoded = [name.encode() for name in names]
    named = b"".join(struct.pack("<Q", len(name)) + name for name in encoded)
    return struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays) + struct.pack("<Q", len(names)) + named


def params_bytes(arrays: Mapping[str, np.ndarray], version: int = 2) -> bytes:
    """The file of named arrays, all of one version."""
    return list_bytes([array_bytes(array, version) for array in arrays.values()], list(arrays))


class SymbolWriter:
    """Adds nodes to a symbol and writes it as JSON."""

    def __init__(self, attributes_key: str = "attrs") -> None:
        self.nodes: list[dict[str, Any]] = []
        self._key = attributes_key
        self.data = self.variable("data")

    def variable(self, name: str, **attributes: Any) -> int:
        return self._add("null", name, (), attributes)

    def op(self, op: str, name: str, *inputs: int | tuple[int, int], **attributes: Any) -> int:
        """An operator on earlier nodes (or a node's numbered output); the node's own number."""
        return self._add(op, name, inputs, attributes)

    def layer(self, op: str, name: str, data: int, parameters: str, **attributes: Any) -> int:
        """An operator with variables of its own: "weight bias" become NAME_weight, NAME_bias."""
        variables = [self.variable(f"{name}_{parameter}") for parameter in parameters.split()]
        return self.op(op, name, data, *variables, **attributes)

    def json(self, *heads: int) -> str:
        """The text; the last node is the head unless told."""
        heads = heads or (len(self.nodes) - 1,)
        arguments = [i for i, node in enumerate(self.nodes) if node["op"] == "null"]
        return json.dumps({"nodes": self.nodes, "arg_nodes": arguments, "heads": [[head, 0, 0] for head in heads]})

    def _add(self, op: str, name: str, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> int:
        entries = [[*one, 0] if isinstance(one, tuple) else [one, 0, 0] for one in inputs]
        texts = {key: str(value) for key, value in attributes.items()}
        self.nodes.append({"op": op, "name": name, self._key: texts, "inputs": entries})
        return len(self.nodes) - 1


def faces(batch: int = 2) -> np.ndarray:
    """[B, 6, 8, 3], as MXNet has them: [B, 3, 6, 8] by transposing."""
    return uniform("mxnet.faces", (batch, *SIZE, 3))


def arrays_for(symbol: Symbol) -> dict[str, np.ndarray]:
    """Random arrays of every variable, by its name, in MXNet's shapes."""
    parameters, _ = parameters_of(symbol, SIZE)
    return {
        name: uniform(name, p.shape, 0.5, 1.5) if name.endswith("var") else uniform(name, p.shape)
        for name, p in parameters.items()
    }


def answer(
    writer: SymbolWriter, arrays: dict[str, np.ndarray] | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The last node's output on `faces()` in MXNet's order of axes, and the arrays that were used."""
    symbol = parse_symbol(writer.json(), "test-symbol.json")
    arrays = arrays_for(symbol) if arrays is None else arrays
    variables = variables_of(symbol, arrays, image_size=SIZE)

    def variable(name: str, parameter: Parameter) -> jax.Array:
        return jnp.asarray(variables[parameter.collection][name])

    return np.asarray(run(symbol, jnp.asarray(faces()), variable).plain()), arrays
