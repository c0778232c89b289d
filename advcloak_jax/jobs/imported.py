"""The folder of an imported recogniser: config.json, network.json, perhaps symbol.json, and one checkpoint."""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advcloak_jax import settings
from advcloak_jax.config import ImportConfig
from advcloak_jax.errors import UserError
from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.convention import Convention
from advcloak_jax.recognizers.mxnet.graph import MxnetGraph
from advcloak_jax.recognizers.recognizer import Recognizer
from advcloak_jax.training.checkpoint import read_checkpoint, require_shapes
from advcloak_jax.training.runs import IMPORTED

GRAPH = "mxnet graph"
"""What network.json calls the architecture of an MXNet symbol, which is in no zoo."""

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Network:
    """What network.json holds: how to build the module, what it reads, and where the weights came from.

    fields: what `zoo.build` needs beside the name. sha256: of the file that was imported.
    """

    name: str
    architecture: str
    fields: dict[str, Any]
    convention: Convention
    embedding_size: int
    parameters: int
    layout: str
    sha256: str
    origin: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return dataclasses.asdict(self) | {"convention": self.convention._asdict()}


def is_imported(folder: Path) -> bool:
    """Whether a run folder was made by import_weights."""
    path = folder / "config.json"
    if not path.exists():
        return False
    stored = settings.read_json(path)
    return isinstance(stored, dict) and stored.get("job") == IMPORTED


def read_network(folder: Path) -> Network:
    """network.json of an imported recogniser. Raises UserError when it is missing or damaged."""
    path = folder / "network.json"
    values = settings.read_json(path)
    try:
        convention = Convention(**{name: _tuples(value) for name, value in values["convention"].items()})
        fields = {name: _tuples(value) for name, value in values["fields"].items()}
        return Network(**(values | {"convention": convention, "fields": fields}))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); import the weights again.") from error


def build(network: Network, folder: Path, *, dtype: str = "float32") -> nn.Module:
    """The module whose variables the folder's checkpoint holds."""
    if network.architecture == GRAPH:
        symbol = (folder / "symbol.json").read_text(encoding="utf-8")
        return MxnetGraph(symbol=symbol, convention=network.convention, dtype=jnp.dtype(dtype), **network.fields)
    return zoo.build(network.architecture, convention=network.convention, dtype=jnp.dtype(dtype), **network.fields)


def template(module: nn.Module, network_size: tuple[int, int]) -> PyTree:
    """Shapes of a module's variables at an input of (height, width)."""
    faces = jax.ShapeDtypeStruct((1, *network_size, 3), jnp.float32)
    return jax.eval_shape(lambda key, faces: module.init(key, faces, train=False), jax.random.key(0), faces)


def load(folder: Path, *, dtype: str = "float32") -> tuple[Recognizer, Network]:
    """The imported recogniser in a folder. Raises UserError when its checkpoint does not fit its network.json."""
    network = read_network(folder)
    module = build(network, folder, dtype=dtype)
    step, variables = read_checkpoint(folder / "checkpoints", best=False)
    size = network.convention.size or (112, 112)
    require_shapes(variables, template(module, size), folder / "checkpoints" / str(step))
    return Recognizer(module, variables), network


def read_config(folder: Path) -> ImportConfig:
    """The settings of the import."""
    path = folder / "config.json"
    return settings.from_dict(ImportConfig, settings.read_json(path)["config"], str(path))


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that modules want, so that they stay hashable."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
