"""Published weights to a run folder: read, recognise, convert, try, store."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax import settings
from advcloak_jax.config import ImportConfig
from advcloak_jax.errors import UserError
from advcloak_jax.files import new_folder, require_new_folder, write_json, write_text
from advcloak_jax.jobs import imported
from advcloak_jax.jobs.imported import GRAPH, Network
from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.convention import Convention, Three, describe
from advcloak_jax.recognizers.mxnet import graph as mxnet_graph
from advcloak_jax.recognizers.mxnet.params_file import read_params
from advcloak_jax.recognizers.recognizer import embed
from advcloak_jax.recognizers.weights import convert
from advcloak_jax.recognizers.weights.reader import read_weights
from advcloak_jax.training import runs
from advcloak_jax.training.checkpoint import Checkpoints

PyTree = Any
TRIED_FACES = 4


def run_import(config: ImportConfig) -> Path:
    """Make the run folder and return it. Raises UserError, leaving no folder, when the file cannot be used."""
    file = Path(config.file).expanduser()
    if not file.is_file():
        raise UserError(f"There is no file {file}; name the published weights.")
    folder = Path(config.run or f"runs/{file.stem.removesuffix('-symbol')}")
    require_new_folder(folder, f"--run {folder}")
    symbol_text = ""
    if is_mxnet(file):
        network, module, variables, symbol_text = _from_mxnet(config, file, folder.name)
    else:
        network, module, variables = _from_tensors(config, file, folder.name)
    _try(module, variables, file)
    _store(config, folder, network, variables, symbol_text)
    print(
        f"{folder}: {network.architecture} ({network.layout}), {network.parameters:,} parameters, "
        f"{network.embedding_size}-d embeddings, {describe(network.convention)}.\n"
        f"Check it on faces of several people: python evaluate.py verify --targets {folder} --data folder:PATH",
        file=sys.stderr,
    )
    return folder


def is_mxnet(file: Path) -> bool:
    """Whether a file's name is one of the pair NAME-symbol.json, NAME-0000.params."""
    return file.suffix == ".params" or file.name.endswith("-symbol.json")


def _from_tensors(config: ImportConfig, file: Path, name: str) -> tuple[Network, nn.Module, PyTree]:
    """A state dict of a known layout."""
    if config.architecture != "auto":
        zoo.architecture(config.architecture)
    state = read_weights(file, key=config.key)
    shapes = {tensor: tuple(value.shape) for tensor, value in state.items()}
    layout, match = convert.recognise(shapes, architecture=config.architecture, layouts=convert.all_layouts())
    usual = layout.convention or zoo.architecture(match.architecture).convention
    convention = _convention(config, usual)._replace(size=match.image_size)
    module = zoo.build(match.architecture, convention=convention, **match.fields)
    variables = convert.convert(imported.template(module, match.image_size), state, match)
    network = _network(config, file, name, match.architecture, match.fields, convention, variables, layout.name)
    return network, module, variables


def _from_mxnet(config: ImportConfig, file: Path, name: str) -> tuple[Network, nn.Module, PyTree, str]:
    """A symbol and its parameters, run as they are."""
    if config.architecture not in ("auto", GRAPH):
        raise UserError(f"{file} brings its own graph; drop --architecture {config.architecture}.")
    symbol_file, params_file = mxnet_files(file)
    arrays = read_params(params_file)
    size = (112, 112)
    convention = _convention(config, Convention((0.0,) * 3, (1.0,) * 3))._replace(size=size)
    module, symbol_text, variables = mxnet_graph.from_file(
        symbol_file, arrays, convention, output=config.output or None
    )
    fields = {"embedding_size": module.embedding_size}
    network = _network(config, params_file, name, GRAPH, fields, convention, variables, "MXNet symbol")
    return network, module, variables, symbol_text


def mxnet_files(file: Path) -> tuple[Path, Path]:
    """The symbol and the parameters that belong to one of them. Raises UserError when the other is not there."""
    if file.suffix == ".params":
        stem = file.stem.rpartition("-")[0] or file.stem
        symbol = file.with_name(f"{stem}-symbol.json")
        if not symbol.is_file():
            raise UserError(f"{file} needs its graph {symbol.name} beside it.")
        return symbol, file
    stem = file.name.removesuffix("-symbol.json")
    found = sorted(file.parent.glob(f"{stem}-*.params"))
    if len(found) != 1:
        raise UserError(f"{file} needs one {stem}-0000.params beside it, not {len(found)}; name the .params file.")
    return file, found[0]


def _convention(config: ImportConfig, usual: Convention) -> Convention:
    """The architecture's usual input, with what the settings say."""

    def three(values: tuple[float, ...], default: Three) -> Three:
        first, *others = values * (3 // len(values)) if values else default
        return (first, others[0], others[1])

    return Convention(three(config.mean, usual.mean), three(config.std, usual.std), config.channels)


def _network(
    config: ImportConfig,
    file: Path,
    name: str,
    architecture: str,
    fields: dict[str, Any],
    convention: Convention,
    variables: PyTree,
    layout: str,
) -> Network:
    parameters = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(variables["params"]))
    return Network(
        name=config.name or name,
        architecture=architecture,
        fields=fields,
        convention=convention,
        embedding_size=fields["embedding_size"],
        parameters=parameters,
        layout=layout,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        origin=config.origin,
    )


def _try(module: nn.Module, variables: PyTree, file: Path) -> None:
    """Embed a few random pictures. Raises UserError when the answers are not finite or all the same."""
    size = getattr(module, "convention").size or (112, 112)  # noqa: B009 (every backbone has one)
    pictures = jax.random.uniform(jax.random.key(0), (TRIED_FACES, *size, 3), jnp.float32)
    answers = np.asarray(jax.jit(lambda variables, x: embed(module, variables, x))(variables, pictures))
    if not np.isfinite(answers).all():
        raise UserError(f"{file} gives embeddings that are not finite; check --mean and --std.")
    if np.ptp(answers, axis=0).max() == 0:
        raise UserError(f"{file} gives every picture the same embedding; its weights are not those of a recogniser.")


def _store(config: ImportConfig, folder: Path, network: Network, variables: PyTree, symbol_text: str) -> None:
    """Write the folder, whole or not at all."""
    with new_folder(folder) as temporary:
        stored = settings.to_dict(config)
        write_json(temporary / "config.json", {"job": runs.IMPORTED, "code": runs.code_version(), "config": stored})
        write_json(temporary / "network.json", network.to_json())
        if symbol_text:
            write_text(temporary / "symbol.json", symbol_text)
        checkpoints = Checkpoints(temporary / "checkpoints", keep=1)
        checkpoints.save(0, jax.tree.map(jnp.asarray, variables), rank=None)
        checkpoints.wait()
        checkpoints.close()
