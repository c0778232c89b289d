"""Functions as ONNX, by jax2onnx. It cannot be a plain requirement: it asks for an Orbax older than ours."""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.files import replacing
from advcloak_jax.handover.functions import Handed

SUFFIX = ".onnx"


def require_library() -> None:
    """Raise UserError when the converter is not installed."""
    for name in ("jax2onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"ONNX needs {name}: pip install -r requirements-onnx.txt, then "
                "pip install --no-deps -r requirements-onnx-export.txt; or leave it out."
            )


def write(path: Path, handed: Handed) -> None:
    """Convert a function. Raises UserError without the converter, or when it cannot do it."""
    require_library()
    with replacing(path) as temporary, _quietly():
        import jax2onnx

        try:
            jax2onnx.to_onnx(handed.call, list(handed.inputs), return_mode="file", output_path=str(temporary))
            _session(temporary)
        except Exception as error:  # whatever another's converter meets: it promises no kind
            said = " ".join(str(error).split())[:200]
            raise UserError(f"jax2onnx cannot convert {path.stem} ({said}); leave onnx out of --formats.") from error


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(path: Path, *arguments: np.ndarray) -> np.ndarray:
    """What ONNX Runtime makes of the function in a file."""
    session = _session(path)
    names = [one.name for one in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, map(np.asarray, arguments), strict=True)))
    return np.asarray(found)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the converter's remarks on its examples and on shapes that it does not annotate."""
    logs = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)
