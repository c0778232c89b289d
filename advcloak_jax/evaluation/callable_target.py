"""A black box that is anybody's Python function: python:MODULE:FUNCTION."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.targets import unit_norm


class CallableTarget:
    """Faces [B, H, W, 3] uint8 RGB to features [B, d] of any norm, by a function that the user names."""

    def __init__(self, name: str, function: Callable[[np.ndarray], np.ndarray], batch: int = 64) -> None:
        """`function` gets at most `batch` faces at a time and may do with them what it likes."""
        self.name = name
        self._function = function
        self._batch = batch

    def embed(self, images: np.ndarray) -> np.ndarray:
        """[B, H, W, 3] uint8 RGB -> [B, d] float32 of unit norm.

        Raises UserError when the function gives anything but finite [B, d], or only zeros for a face, or asks to end
        the process; what else it raises passes.
        """
        blocks = [self._features(images[i : i + self._batch]) for i in range(0, len(images), self._batch)]
        if len({block.shape[1] for block in blocks}) > 1:
            raise UserError(f"{self.name} gave embeddings of different lengths; it should give the same d every time.")
        return unit_norm(self.name, np.concatenate(blocks))

    def fingerprint(self) -> None:
        """None: what a function depends on is not known, so nothing of it is kept between runs."""
        return None

    def _features(self, images: np.ndarray) -> np.ndarray:
        try:
            answer = self._function(images.copy())
        except SystemExit as error:
            raise UserError(f"{self.name} asked to end the process (status {error.code}); it should not.") from error
        try:
            features = np.asarray(answer, np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.name} should give an array [{len(images)}, d], not {type(answer)}.") from error
        if features.ndim != 2 or len(features) != len(images):
            raise UserError(f"{self.name} should give embeddings [{len(images)}, d], not {list(features.shape)}.")
        return features


def load_callable(spec: str) -> CallableTarget:
    """The target of `python:MODULE:FUNCTION[,name=NAME][,batch=B]`; MODULE is also looked for in the working directory.

    Importing a module runs it: name only code that you trust. Raises UserError when there is no such function.
    """
    path, *options = spec.removeprefix("python:").split(",")
    module_name, separator, function_name = path.partition(":")
    if not (module_name and separator and function_name):
        raise UserError(f"'{spec}' should read python:MODULE:FUNCTION, as in python:my_recogniser:embed.")
    values = {"name": f"{module_name}:{function_name}", "batch": "64"}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or key not in values:
            raise UserError(f"'{option}' in '{spec}' is no option; the options are name=NAME and batch=B.")
        values[key] = value
    if not values["batch"].isdecimal() or int(values["batch"]) == 0:
        raise UserError(f"batch={values['batch']} in '{spec}' should be a whole number above 0.")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"'{spec}': cannot import {module_name} ({error}); name a module Python finds.") from error
    except SystemExit as error:
        raise UserError(f"'{spec}': importing {module_name} asks to end the process; it should only define.") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"'{spec}': {module_name} has no function {function_name}.")
    return CallableTarget(values["name"], function, int(values["batch"]))
