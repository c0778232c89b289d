"""What a job starts from: earlier runs, faces and their split."""

import dataclasses
import sys
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from advcloak_jax.config import (
    NO_STAGE_ONE,
    BadImage,
    GeneratorConfig,
    ImageConfig,
    PersonConfig,
    RecognizerConfig,
    TrainConfig,
    flag,
)
from advcloak_jax.data import sources
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.splits import Split, make_split
from advcloak_jax.errors import UserError
from advcloak_jax.jobs.imported import is_imported
from advcloak_jax.jobs.imported import load as load_imported
from advcloak_jax.networks.discriminator import Discriminator
from advcloak_jax.networks.generator import Generator
from advcloak_jax.progress import Progress
from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.recognizer import Recognizer
from advcloak_jax.settings import read_json
from advcloak_jax.training import distributed
from advcloak_jax.training.checkpoint import read_checkpoint, require_shapes
from advcloak_jax.training.runs import Run, read_run

PyTree = Any
Config = TypeVar("Config", bound=GeneratorConfig)


def resolve(config: Config) -> Config:
    """Settings of a generator's training completed by those of the run it builds on: data, split, image size, networks.

    Raises UserError when that run is of another job or is not there, or when a flag asks for what that run has fixed.
    """
    given = config
    fresh = isinstance(config, PersonConfig) and config.generator == NO_STAGE_ONE
    if fresh and not config.surrogate:
        raise UserError("--surrogate is needed: with --generator none no stage I tells which one to learn against.")
    if isinstance(config, PersonConfig) and not fresh:
        earlier: TrainConfig = read_run_of("image", config.generator, "--generator").config
        assert isinstance(earlier, ImageConfig)
        config = dataclasses.replace(
            config,
            surrogate=config.surrogate or earlier.surrogate,
            generator_width=earlier.generator_width,
            discriminator_width=earlier.discriminator_width,
        )
        if not is_imported(Path(config.surrogate)):
            surrogate = read_run_of("recognizer", config.surrogate, "--surrogate").config
            if surrogate.image_size != earlier.image_size:
                raise UserError(
                    f"--surrogate {config.surrogate} takes {surrogate.image_size}-pixel faces, stage I was trained on "
                    f"{earlier.image_size}; name another one."
                )
    elif is_imported(Path(config.surrogate)):
        if not config.data:
            raise UserError(f"--data is needed: {config.surrogate} is imported and brings no faces.")
        return _with_batch(config)
    else:
        earlier = read_run_of("recognizer", config.surrogate, "--surrogate").config
    config = dataclasses.replace(config, image_size=earlier.image_size)
    if not config.data:
        config = dataclasses.replace(config, data=earlier.data, split=earlier.split, on_bad_image=earlier.on_bad_image)
    config = _with_batch(config)
    _refuse_overruled(given, config)
    return config


def _with_batch(config: Config) -> Config:
    """Stage II's images per step follow from its persons."""
    if isinstance(config, PersonConfig):
        return dataclasses.replace(config, batch=config.persons * config.split.generator_images)
    return config


def _refuse_overruled(given: TrainConfig, resolved: TrainConfig) -> None:
    """Raise UserError for a flag that was set to something else than what the earlier run fixes."""
    default = type(given)()
    for name in ("image_size", "split", "on_bad_image", "batch", "generator_width", "discriminator_width"):
        asked = getattr(given, name, None)
        if asked not in (getattr(default, name, None), getattr(resolved, name, None)):
            raise UserError(f"{flag(name)} is fixed by the run that this one builds on; drop it (or give --data too).")


def read_run_of(job: str, folder: str, name: str) -> Run:
    """The run in `folder`, which must be one of `train.py JOB` with a checkpoint. `name` is the flag that named it."""
    run = read_run(Path(folder))
    if run.job != job:
        raise UserError(f"{name} {folder} is a run of `train.py {run.job}`; name one of `train.py {job}`.")
    return run


def load_faces(data: tuple[str, ...], image_size: int, on_bad_image: BadImage, cache: str) -> FaceSet:
    """Read faces with a progress display and say what they are."""
    if not data:
        raise UserError(f"--data names no faces; give {sources.FORMS}.")
    bars: dict[str, Progress] = {}
    done: dict[str, int] = {}

    def report(label: str, count: int, total: int) -> None:
        if label not in bars:
            bars[label], done[label] = Progress(label, total, "faces"), 0
        bars[label].update(count - done[label])
        done[label] = count

    try:
        # What the first process leaves in the cache, the others read.
        faces = distributed.first_then_others(
            "faces",
            lambda: sources.load(
                data,
                image_size=image_size,
                on_bad_image=on_bad_image,
                cache=Path(cache) if cache else None,
                progress=report,
            ),
        )
    finally:
        for bar in bars.values():
            bar.close()
    if distributed.writes():
        print(f"Faces: {sources.summary(faces)}.", file=sys.stderr)
    return faces


def load_split(config: TrainConfig) -> tuple[FaceSet, Split]:
    """Faces of a job and who plays which part in it."""
    faces = load_faces(config.data, config.image_size, config.on_bad_image, config.cache)
    return faces, make_split(faces, config.split)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A recogniser and its folder, the face size it takes (None: any) and the persons it is known to have trained on.

    run: how it was trained; None for an imported one, of which only the weights are known.
    """

    recognizer: Recognizer
    label: str
    folder: Path
    image_size: int | None
    trained_on: frozenset[str]
    run: Run | None


def load_recognizer(folder: str, name: str, *, dtype: str = "float32") -> Loaded:
    """The imported recogniser in a folder, or the best checkpoint of `train.py recognizer`. `name` is the flag.

    Raises UserError when the folder holds neither, or its checkpoint does not fit its settings.
    """
    if is_imported(Path(folder)):
        recognizer, network = load_imported(Path(folder), dtype=dtype)
        return Loaded(recognizer, f"{network.name} ({network.architecture})", Path(folder), None, frozenset(), None)
    run = read_run_of("recognizer", folder, name)
    config = run.config
    assert isinstance(config, RecognizerConfig)
    step, state = read_checkpoint(run.checkpoints, best=True)
    module = build_recognizer(config, dtype=dtype, axis_name=None)
    variables = {"params": state["params"]["backbone"], "batch_stats": state["batch_stats"]}
    require_shapes(variables, _shapes(module, config.image_size), run.checkpoints / str(step))
    return Loaded(
        Recognizer(module, variables),
        f"{run.folder.name} ({config.architecture})",
        run.folder,
        config.image_size,
        _trained_on(run, config.part),
        run,
    )


def _trained_on(run: Run, part: str) -> frozenset[str]:
    """Names of the persons that a recogniser was trained on."""
    path = run.folder / "split.json"
    split = read_json(path)
    names = split.get(part) if isinstance(split, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} does not tell whom {run.folder} was trained on; restore it or train it again.")
    return frozenset(names)


def build_recognizer(config: RecognizerConfig, *, dtype: str, axis_name: str | None) -> Any:
    """The backbone that a recogniser's settings ask for."""
    return zoo.build(
        config.architecture,
        width=config.width,
        embedding_size=config.embedding_size,
        dropout=config.dropout,
        dtype=jnp.dtype(dtype),
        axis_name=axis_name,
        remat=config.remat == "blocks",
    )


def load_gan(run: Run) -> PyTree:
    """Generator's and discriminator's variables of a stage's newest checkpoint: {"generator": ..., ...}.

    Raises UserError when they do not fit the run's settings.
    """
    config = run.config
    assert isinstance(config, ImageConfig)
    step, state = read_checkpoint(run.checkpoints, best=False)
    found = {"generator": state["generator"], "discriminator": state["discriminator"]}
    expected = {
        "generator": _shapes(Generator(width=config.generator_width), config.image_size),
        "discriminator": _shapes(Discriminator(width=config.discriminator_width), config.image_size),
    }
    require_shapes(found, expected, run.checkpoints / str(step))
    return found


def _shapes(module: Any, image_size: int) -> PyTree:
    """Shapes of a network's variables."""
    faces = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(lambda key, faces: module.init(key, faces, train=False), jax.random.key(0), faces)
