"""Functions as serialised StableHLO with their weights inside, for any batch, on CPU, CUDA and TPU."""

import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from advcloak_jax.errors import UserError
from advcloak_jax.files import replacing
from advcloak_jax.handover.functions import Handed

PLATFORMS = ("cpu", "cuda", "tpu")
SUFFIX = ".stablehlo"


def require_library() -> None:
    """Raise UserError when what jax.export serialises with is not installed."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("StableHLO needs flatbuffers: pip install -r requirements-export.txt, or leave it out.")


def write(path: Path, handed: Handed) -> None:
    """Serialise a function. Raises UserError without flatbuffers."""
    require_library()
    scope = export.SymbolicScope()
    specs = []
    for shape in handed.inputs:
        text = ",".join(map(str, shape))
        specs.append(jax.ShapeDtypeStruct(export.symbolic_shape(text, scope=scope), jnp.float32))
    exported = export.export(jax.jit(handed.call), platforms=PLATFORMS)(*specs)
    with replacing(path) as temporary:
        temporary.write_bytes(exported.serialize())


def read(path: Path) -> Callable[..., Any]:
    """The function in a file. Raises UserError when it is missing or damaged."""
    require_library()
    try:
        return export.deserialize(bytearray(path.read_bytes())).call
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; export the run again.") from error
    except (ValueError, TypeError, AssertionError, IndexError, struct.error) as error:
        raise UserError(f"{path} is not readable as an exported function; export the run again.") from error
