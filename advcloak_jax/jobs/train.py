"""Training: prepare the run folder, build the job, run the loop."""

import contextlib
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from advcloak_jax import cli, mappings
from advcloak_jax.config import (
    GeneratorConfig,
    ImageConfig,
    PersonConfig,
    RecognizerConfig,
    TrainConfig,
    UniversalConfig,
)
from advcloak_jax.data import splits
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.splits import Split
from advcloak_jax.errors import UserError
from advcloak_jax.files import replacing
from advcloak_jax.jobs import cloak, inputs, programs, recognizer, universal
from advcloak_jax.settings import read_json
from advcloak_jax.training import distributed, lock, runs, wandb_writer
from advcloak_jax.training.loop import Job, train

SECONDS_TO_APPEAR = 60


def run(job: str, config: TrainConfig) -> None:
    """Train as the settings say; a run that is finished is left as it is. Raises UserError when they cannot be met."""
    if config.print_config:
        cli.print_settings(_completed(config))
    if config.resume and (folder := Path(config.run)).exists() and (folder / "config.json").exists():
        earlier = runs.read_run(folder)
        if earlier.finished and earlier.job == job:
            runs.require_free(job, config)
            print(f"{folder} is finished already.", file=sys.stderr)
            return
    if isinstance(config, GeneratorConfig):
        config = inputs.resolve(config)
    runs.require_free(job, config)
    if config.wandb:
        wandb_writer.require_library()
    programs.keep(config.cache)
    mappings.spare()
    with distributed.joined(config):
        faces, split = inputs.load_split(config)
        # The folder is made once nothing can be wrong with the settings any more, so that a corrected start may use it.
        work = build(config, faces, split)
        with lock.held(Path(config.run)) if distributed.writes() else contextlib.nullcontext():
            opened = open_run(job, config, faces, split)
            validation = train(opened, work, sample=lambda step, picture: save_sample(opened, step, picture))
        print(f"{opened.folder}: " + ", ".join(f"{name} {value:.4f}" for name, value in validation.items()))


def open_run(job: str, config: TrainConfig, faces: FaceSet, split: Split) -> runs.Run:
    """The run's folder, made or opened again by one process for all. Raises UserError when the others do not see it."""
    run = runs.Run(Path(config.run), job, config)
    if distributed.writes():
        run = runs.start_run(job, config)
        keep_split(run, faces, split)
    distributed.barrier("run")
    # A network file system may show a new file late.
    ends = time.monotonic() + SECONDS_TO_APPEAR
    while not (run.folder / "split.json").exists():
        if time.monotonic() > ends:
            raise UserError(f"--run {run.folder} is not on a disk that all processes share; choose one that is.")
        time.sleep(1)
    return run


def _completed(config: TrainConfig) -> TrainConfig:
    """Settings with what the earlier run fixes, as far as that run is there already."""
    try:
        return inputs.resolve(config) if isinstance(config, GeneratorConfig) else config
    except UserError as error:
        print(f"not completed by the earlier run: {error}", file=sys.stderr)
        return config


def build(config: TrainConfig, faces: FaceSet, split: Split) -> Job:
    """The job that the settings describe."""
    if isinstance(config, PersonConfig):
        return cloak.build_person(config, faces, split)
    if isinstance(config, ImageConfig):
        return cloak.build_image(config, faces, split)
    if isinstance(config, UniversalConfig):
        return universal.build(config, faces, split)
    assert isinstance(config, RecognizerConfig)
    return recognizer.build(config, faces, split)


def keep_split(run: runs.Run, faces: FaceSet, split: Split) -> None:
    """Store the split in the run. Raises UserError when a resumed run had another: the data has changed since."""
    path = run.folder / "split.json"
    if path.exists() and read_json(path) != splits.to_json(split, faces):
        raise UserError(f"{path} does not fit the data any more: faces were added or removed; start a new --run.")
    splits.save(path, split, faces)


def save_sample(run: runs.Run, step: int, picture: np.ndarray) -> None:
    """Write a sample picture [H, W, 3] uint8 to samples/."""
    with replacing(run.folder / "samples" / f"{step:08d}.png") as temporary:
        Image.fromarray(picture).save(temporary)
