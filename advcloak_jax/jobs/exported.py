"""An exported network back in Flax, from its folder alone."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.cloaks.universal import universal
from advcloak_jax.errors import UserError
from advcloak_jax.handover import weights
from advcloak_jax.jobs import imported
from advcloak_jax.networks.generator import Generator
from advcloak_jax.recognizers.recognizer import Recognizer
from advcloak_jax.settings import read_json
from advcloak_jax.training.checkpoint import require_shapes

PyTree = Any
FILE = "export.json"
FORMAT = "advcloak-jax 1"
NOISE, MASK = "noise", "mask"
"""Tensors of a universal mask, beside its generator's variables."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """What export.json says: kind "generator", "universal" or "recognizer", and the whole of it."""

    kind: str
    folder: Path
    values: dict[str, Any]


def read_export(folder: Path) -> Exported:
    """The description of an exported network. Raises UserError when the folder holds none."""
    path = folder / FILE
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{path} describes no exported network of this version; export the run again.")
    return Exported(values["kind"], folder, values)


def load_generator(folder: Path) -> tuple[Generator, PyTree]:
    """The exported generator and its variables. Raises UserError when there is none, or it does not fit."""
    exported = _of_kind(folder, "generator")
    module = Generator(**exported.values["network"]["fields"])
    size = exported.values["image_size"]
    return module, _variables(exported, imported.template(module, (size[0], size[1])))


def load_universal(folder: Path) -> Cloak:
    """The exported universal mask, made by its generator. Raises UserError when there is none, or it does not fit."""
    exported = _of_kind(folder, "universal")
    module = Generator(**exported.values["network"]["fields"])
    height, width = exported.values["image_size"]
    one = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    expected = {
        **imported.template(module, (height, width)),
        NOISE: one,
        MASK: jax.ShapeDtypeStruct(one.shape[1:], one.dtype),
    }
    tensors = _variables(exported, expected)
    variables = {name: value for name, value in tensors.items() if name not in (NOISE, MASK)}
    return universal("GAP", module, variables, tensors[NOISE], exported.values["universal"]["epsilon"])


def load_recognizer(folder: Path) -> Recognizer:
    """The exported recogniser. Raises UserError when there is none, or it does not fit."""
    exported = _of_kind(folder, "recognizer")
    module = imported.build(imported.read_network(folder), folder)
    size = exported.values["network_size"]
    return Recognizer(module, _variables(exported, imported.template(module, (size[0], size[1]))))


def _of_kind(folder: Path, kind: str) -> Exported:
    exported = read_export(folder)
    if exported.kind != kind:
        raise UserError(f"{folder} holds a {exported.kind}, no {kind}; name another folder.")
    return exported


def _variables(exported: Exported, expected: PyTree) -> PyTree:
    """The tensors of the export, which have the shapes of `expected`."""
    if "weights" not in exported.values:
        raise UserError(f"{exported.folder} was exported without its weights; add safetensors to --formats.")
    variables = weights.read(exported.folder, exported.values["weights"]["sha256"])
    require_shapes(variables, expected, exported.folder / weights.FILE)
    return variables
