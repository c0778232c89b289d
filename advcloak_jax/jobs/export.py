"""`python -m advcloak_jax.export RUN OUT`: a trained generator or recogniser, handed over."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from advcloak_jax import settings
from advcloak_jax.config import ExportConfig, GeneratorConfig, ImageConfig, UniversalConfig
from advcloak_jax.errors import UserError
from advcloak_jax.files import new_folder, require_new_folder, write_json, write_text
from advcloak_jax.handover import functions, onnx_file, stablehlo, weights
from advcloak_jax.handover.functions import Handed
from advcloak_jax.jobs import exported, imported, inputs, universal
from advcloak_jax.jobs.imported import GRAPH, Network
from advcloak_jax.networks.generator import Generator
from advcloak_jax.networks.universal_mask import universal_mask
from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.convention import describe
from advcloak_jax.training import runs

PyTree = Any
TOLERANCES = {"stablehlo": 1e-6, "onnx": 1e-4}
"""Largest difference of an exported function's values from the network's: masks in (-1, 1), unit-norm embeddings."""
TRIED: dict[str | int, int] = {"B": 3, "P": 2, "N": 3}
"""Sizes that the exported functions are tried with."""
TRIED_NORM = 1200.0
"""Norm in grey levels that they are tried with."""


class Subject(NamedTuple):
    """What is exported: kind, module, variables, its functions, and what export.json says of it alone.

    network: of a recogniser, so that it can be built again; symbol: its graph, when it came from MXNet.
    """

    kind: str
    module: nn.Module
    variables: PyTree
    functions: dict[str, Handed]
    about: dict[str, Any]
    network: Network | None = None
    symbol: str = ""


def run_export(config: ExportConfig) -> Path:
    """Write the folder and return it. Raises UserError, leaving no folder, when the run cannot be exported."""
    out = Path(config.out)
    # Before minutes of work.
    require_new_folder(out, f"{out}")
    if "stablehlo" in config.formats:
        stablehlo.require_library()
    if "onnx" in config.formats:
        onnx_file.require_library()
    subject = _subject(config)
    with new_folder(out) as temporary:
        written = _write_functions(temporary, subject, config)
        about: dict[str, Any] = {"format": exported.FORMAT, "kind": subject.kind, **subject.about}
        about["functions"] = written
        if "safetensors" in config.formats:
            arrays = weights.tensors(subject.variables)
            about["weights"] = {
                "file": weights.FILE,
                "sha256": weights.write(temporary, arrays),
                "tensors": weights.describe(arrays),
            }
        if subject.network is not None:
            write_json(temporary / "network.json", subject.network.to_json())
        if subject.symbol:
            write_text(temporary / "symbol.json", subject.symbol)
        write_json(temporary / exported.FILE, {**about, "code": runs.code_version()})
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}.", file=sys.stderr)
    return out


def _write_functions(folder: Path, subject: Subject, config: ExportConfig) -> dict[str, dict[str, Any]]:
    """Write every function in every form that is asked for, and try it."""
    told: dict[str, dict[str, Any]] = {}
    for name, handed in subject.functions.items():
        told[name] = {"does": handed.text, "inputs": [list(shape) for shape in handed.inputs], "files": {}}
        if "stablehlo" in config.formats:
            path = folder / f"{name}{stablehlo.SUFFIX}"
            stablehlo.write(path, handed)
            told[name]["files"][path.name] = _difference(handed, stablehlo.read(path), "stablehlo")
        if "onnx" in config.formats:
            path = folder / f"{name}{onnx_file.SUFFIX}"
            onnx_file.write(path, handed)
            told[name]["files"][path.name] = _difference(
                handed, lambda *arguments, path=path: onnx_file.run(path, *arguments), "onnx"
            )
    return told


def _difference(handed: Handed, found: Any, form: str) -> dict[str, float]:
    """How far an exported function is from the network, on random pictures on the CPU. RuntimeError if too far."""
    draw = np.random.default_rng(0)
    sizes = [[int(TRIED.get(side, side)) for side in shape] for shape in handed.inputs]
    arguments = [np.asarray(draw.uniform(size=size) if size else TRIED_NORM, np.float32) for size in sizes]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        difference = np.abs(np.asarray(found(*arguments)) - np.asarray(jax.jit(handed.call)(*arguments))).max()
    if not difference <= TOLERANCES[form]:
        raise RuntimeError(f"the exported {form} differs from the network by {difference:.3g}")
    return {"largest_difference": float(difference)}


def _subject(config: ExportConfig) -> Subject:
    """What the run trained. Raises UserError when the folder holds nothing that can be exported."""
    folder = Path(config.run)
    if imported.is_imported(folder):
        return _imported(folder, config.image_size)
    run = runs.read_run(folder)
    if config.image_size:
        raise UserError(f"--image-size is fixed by {folder}; drop it.")
    if isinstance(run.config, UniversalConfig):
        return _universal(run, run.config)
    return _generator(run, run.config) if isinstance(run.config, ImageConfig) else _trained(run)


def _about_generator(run: runs.Run, config: GeneratorConfig) -> tuple[Generator, dict[str, Any]]:
    """The generator of a run, and what export.json says of it."""
    fields: dict[str, Any] = {"width": config.generator_width, "blocks": 3}
    return Generator(**fields), {
        "network": {"name": "generator", "fields": fields},
        "image_size": [config.image_size, config.image_size],
        "pixels": "RGB, 0..255 divided by 255; the network scales them itself",
        "masks": "on the scale of the pixels",
        "transposed_convolutions": "decode_0 and decode_1 (stride 2, padding 1): taps flipped against PyTorch's weight",
        "run": {"job": run.job, "settings": settings.to_dict(config)},
    }


def _generator(run: runs.Run, config: ImageConfig) -> Subject:
    variables = inputs.load_gan(run)["generator"]
    module, about = _about_generator(run, config)
    return Subject("generator", module, variables, functions.of_generator(module, variables, config.image_size), about)


def _universal(run: runs.Run, config: UniversalConfig) -> Subject:
    """GAP's generator with its one input, and the mask that it makes of it."""
    variables, noise = universal.load(run)
    module, about = _about_generator(run, config)
    make = jax.jit(lambda variables: universal_mask(module, variables, noise, config.epsilon)[0])
    mask = make(variables)
    tensors = {**variables, exported.NOISE: noise, exported.MASK: mask}
    about["universal"] = {
        exported.NOISE: "the network's one input [1, H, W, 3]; its batch statistics are those of this input itself",
        exported.MASK: "what it makes of it, scaled down as a whole to at most `epsilon` grey levels a pixel",
        "epsilon": config.epsilon,
    }
    return Subject("universal", module, tensors, functions.of_universal(mask), about)


def _trained(run: runs.Run) -> Subject:
    loaded = inputs.load_recognizer(str(run.folder), "RUN")
    config: Any = run.config
    module, variables = loaded.recognizer.module, loaded.recognizer.variables
    network = Network(
        name=run.folder.name,
        architecture=config.architecture,
        fields={"width": config.width, "embedding_size": config.embedding_size},
        convention=zoo.architecture(config.architecture).convention,
        embedding_size=config.embedding_size,
        parameters=sum(int(np.size(leaf)) for leaf in jax.tree.leaves(variables["params"])),
        layout="",
        sha256="",
        origin=f"trained by train.py {run.job}",
    )
    about = {"run": {"job": run.job, "settings": settings.to_dict(config)}}
    return _recognizer(network, module, variables, (config.image_size,) * 2, (config.image_size,) * 2, about)


def _imported(folder: Path, image_size: int) -> Subject:
    recognizer, network = imported.load(folder)
    size = network.convention.size or (112, 112)
    faces = (image_size, image_size) if image_size else size
    symbol = (folder / "symbol.json").read_text(encoding="utf-8") if network.architecture == GRAPH else ""
    subject = _recognizer(network, recognizer.module, recognizer.variables, faces, size, {})
    return subject._replace(symbol=symbol)


def _recognizer(
    network: Network,
    module: nn.Module,
    variables: PyTree,
    faces: tuple[int, int],
    network_size: tuple[int, int],
    about: dict[str, Any],
) -> Subject:
    """faces: (height, width) of the images it is given; network_size: of what reaches its first layer."""
    about = {
        "network": "network.json",
        "image_size": list(faces),
        "network_size": list(network_size),
        "pixels": f"RGB, 0..255 divided by 255; the network reads {describe(network.convention)}",
        "embeddings": f"{network.embedding_size} numbers of norm 1; persons are compared by the cosine",
        **about,
    }
    handed = functions.of_recognizer(module, variables, faces)
    return Subject("recognizer", module, variables, handed, about, network)
