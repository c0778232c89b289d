"""Files of the safetensors format, by its own library."""

import ml_dtypes
import numpy as np
import safetensors

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.weights.records import shown
from advcloak_jax.recognizers.weights.state_dict import find
from advcloak_jax.recognizers.weights.tensors import plain

ELEMENTS: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"I{8 * width}": np.dtype(f"<i{width}") for width in (1, 2, 4, 8)},
    **{f"U{8 * width}": np.dtype(f"<u{width}") for width in (1, 2, 4, 8)},
    "BOOL": np.dtype("u1"),
}


def is_safetensors(data: bytes) -> bool:
    """Whether a file begins with the length of a JSON header, and the header."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def read_safetensors(data: bytes, source: str, key: str = "") -> dict[str, np.ndarray]:
    """The state dict of a .safetensors file. Arguments and errors as for `pytorch_file.read_zip`."""
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise UserError(f"{source} is no whole safetensors file ({shown(error)}). Download it again.") from error
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in ELEMENTS:
            raise UserError(f"{source} holds {shown(name)} as {shown(entry['dtype'])}; save it as float32.")
        values = np.frombuffer(entry["data"], ELEMENTS[entry["dtype"]])
        arrays[name] = plain(values.reshape(entry["shape"]), name, source)
    return find(arrays, np.ndarray, source, key)
