"""Which cloak a person's photos get: trained, exported, made by a method, or made before."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from advcloak_jax.cloaks.averaged import averaged
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.config import GeneratorConfig, ProtectConfig, ProtectionConfig
from advcloak_jax.errors import UserError
from advcloak_jax.jobs import entries, exported
from advcloak_jax.jobs.targets import LoadedTarget, load_target
from advcloak_jax.jobs.trained import trained_cloaks
from advcloak_jax.training.runs import Run, read_run

EXPORTED = ("generator", "universal")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The cloak, the side of the crops that it is for, and a recogniser that tells faces apart, if one is known."""

    cloak: Cloak
    image_size: int
    recognizer: LoadedTarget | None


def load(config: ProtectConfig) -> Chosen:
    """What the settings ask for. Raises UserError when it is not there, or no cloak."""
    if config.mask:
        chosen = _made_before(Path(config.mask))
    elif config.method:
        chosen = _by_method(config)
    elif (Path(config.cloak) / exported.FILE).exists():
        chosen = _exported(Path(config.cloak))
    else:
        chosen = _trained(Path(config.cloak), with_recognizer=not config.recognizer)
    if config.recognizer:
        told = load_target(config.recognizer, "--recognizer")
        if told.image_size not in (None, chosen.image_size):
            raise UserError(
                f"--recognizer {config.recognizer} takes {told.image_size}-pixel faces, the cloak {chosen.image_size}."
            )
        return dataclasses.replace(chosen, recognizer=told)
    return chosen


def _made_before(path: Path) -> Chosen:
    try:
        mask = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"--mask {path} is no mask.npy of an earlier call ({error}); name one.") from error
    if not isinstance(mask, np.ndarray):
        raise UserError(f"--mask {path} holds several arrays; name mask.npy of an earlier call.")
    if mask.ndim != 3 or mask.shape[0] != mask.shape[1] or mask.shape[2] != 3 or mask.dtype != np.float32:
        raise UserError(f"--mask {path} holds {mask.dtype} {list(mask.shape)}, no mask [S, S, 3] of float32.")
    if not np.isfinite(mask).all() or not mask.any():
        raise UserError(f"--mask {path} holds values that are not finite, or only zeros; name another one.")
    cloak = Cloak(f"mask of {path}", "universal", lambda faces, key: jax.numpy.asarray(mask))
    return Chosen(cloak, mask.shape[0], None)


def _by_method(config: ProtectConfig) -> Chosen:
    try:
        if config.hybrid:
            name, _, rest = config.method.partition(":")
            spec = f"{name}:{','.join(part for part in (f'start={config.cloak}', rest) if part)}"
            run = _read(Path(config.cloak))
            rows = entries.build(ProtectionConfig(methods=(spec,), cloaks=(config.cloak,)), [run])
        else:
            rows = entries.build(ProtectionConfig(methods=(config.method,), surrogates=(config.surrogate,)), [])
    except UserError as error:  # what serves tables names their flags
        raise UserError(str(error).replace("--surrogates", "--surrogate").replace("--cloaks", "--cloak")) from error
    (row,) = (row for row in rows if row.run is None)
    assert row.source is not None
    members = row.source.members
    sizes = {one.image_size for one in members} - {None}
    size = next(iter(sizes), None) or config.image_size
    if len(sizes) > 1:
        raise UserError(f"--surrogate {config.surrogate} takes faces of different sizes; name others.")
    if config.image_size not in (size, ProtectConfig.image_size):
        raise UserError(f"--image-size is fixed by --surrogate {config.surrogate}: {size}; drop it.")
    return Chosen(row.cloak, size, members[0])


def _exported(folder: Path) -> Chosen:
    found = exported.read_export(folder)
    if found.kind not in EXPORTED:
        raise UserError(f"--cloak {folder} is the export of a {found.kind}; name that of a stage or a universal mask.")
    size = int(found.values["image_size"][0])
    if found.kind == "universal":
        return Chosen(exported.load_universal(folder), size, None)
    return Chosen(averaged(f"generator of {folder}", *exported.load_generator(folder)), size, None)


def _read(folder: Path) -> Run:
    """The run of a cloak. Raises UserError for another one."""
    run = read_run(folder)
    if not isinstance(run.config, GeneratorConfig):
        raise UserError(f"--cloak {folder} is a run of `train.py {run.job}`; name one of person, image or universal.")
    return run


def _trained(folder: Path, *, with_recognizer: bool) -> Chosen:
    run = _read(folder)
    assert isinstance(run.config, GeneratorConfig)
    # Of stage I, what is the person's: the mean of the masks.
    cloak = next(cloak for cloak, _ in reversed(trained_cloaks(run)) if cloak.kind != "image")
    there = with_recognizer and (Path(run.config.surrogate) / "config.json").exists()
    return Chosen(cloak, run.config.image_size, load_target(run.config.surrogate, "--cloak") if there else None)
