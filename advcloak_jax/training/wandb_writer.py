"""Metrics and samples to Weights & Biases, when it is installed and asked for."""

import importlib.util
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.files import write_json

FILE = "wandb.json"
"""Keeps the id that the run has there, so that a resumed run goes on there too."""


def require_library() -> None:
    """Raise UserError when it is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise UserError("--wandb needs wandb: pip install -r requirements-wandb.txt, or drop the flag.")


class WandbWriter:
    """A run of a project; its steps are the training's."""

    def __init__(self, folder: Path, project: str, config: dict[str, Any]) -> None:
        import wandb

        self._image = wandb.Image
        self._run = wandb.init(
            project=project, name=folder.name, id=_id_of(folder), resume="allow", dir=str(folder), config=config
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture [H, W, 3] uint8."""
        self._run.log({name: self._image(pixels)}, step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def _id_of(folder: Path) -> str:
    path = folder / FILE
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex})
    return str(json.loads(path.read_text(encoding="utf-8"))["id"])
