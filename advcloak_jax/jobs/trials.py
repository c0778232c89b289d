"""Who is protected on which photos, and among whom they hide."""

import dataclasses
from pathlib import Path

import numpy as np

from advcloak_jax import settings
from advcloak_jax.config import GeneratorConfig, ProtectionConfig
from advcloak_jax.data import splits
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.splits import Split
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.store import Store
from advcloak_jax.jobs import inputs
from advcloak_jax.training.runs import Run, read_run


@dataclasses.dataclass(frozen=True)
class Trials:
    """Protected persons' names [P], their photos and everybody else's.

    inference [P, N, H, W, 3]: what masks are made from; test [P, T, H, W, 3]: what wears them; distractors
    [M, H, W, 3]; all uint8.
    """

    persons: list[str]
    inference: np.ndarray
    test: np.ndarray
    distractors: np.ndarray

    @property
    def image_size(self) -> int:
        """Height (= width) in pixels."""
        return int(self.test.shape[2])

    def with_inference(self, count: int) -> "Trials":
        """The same, with masks made from each person's first `count` inference images."""
        return dataclasses.replace(self, inference=self.inference[:, :count])


def read_cloak_runs(config: ProtectionConfig) -> list[Run]:
    """The trained cloaks, which must share their split.

    Raises UserError when one is of another job or split, or named twice.
    """
    found = [read_run(Path(folder)) for folder in config.runs]
    places = [run.folder.resolve() for run in found]
    for run in found:
        if places.count(run.folder.resolve()) > 1:
            raise UserError(f"--cloaks {run.folder} is named twice; drop one.")
        if not isinstance(run.config, GeneratorConfig):
            raise UserError(
                f"--cloaks {run.folder} is a run of `train.py {run.job}`; name runs of image, person or universal."
            )
        if _split_of(run) != _split_of(found[0]):
            raise UserError(f"--cloaks {run.folder} has another split than {found[0].folder}; compare them apart.")
    return found


def load_trials(config: ProtectionConfig, cloak_runs: list[Run]) -> Trials:
    """The faces of the cloaks' runs, of --split-from or of --data, dealt as there.

    Raises UserError when none of them is given, when the cloaks were trained on another split, or when nobody is left
    to distract.
    """
    run = cloak_runs[0] if cloak_runs else None
    if config.split_from:
        asked = read_run(Path(config.split_from))
        if run is not None and _split_of(asked) != _split_of(run):
            raise UserError(f"--cloaks {run.folder} has another split than --split-from {asked.folder}; drop one.")
        run = asked
    if run is not None:
        faces = inputs.load_faces(run.config.data, run.config.image_size, run.config.on_bad_image, config.cache)
        split = splits.read(run.folder / "split.json", faces)
    elif config.data:
        faces = inputs.load_faces(config.data, config.image_size, config.on_bad_image, config.cache)
        split = splits.make_split(faces, config.split)
    else:
        raise UserError("--data or --split-from is needed: no run of --cloaks tells whom to protect.")
    return Trials(
        [faces.names[i] for i in split.protected],
        faces.images[split.inference],
        faces.images[split.test],
        _distractors(config, faces, split),
    )


def open_store(cache: str) -> Store:
    """Where masks and embeddings are kept: below the folder that --cache names; "": nowhere."""
    return Store(Path(cache) / "measured" if cache else None)


def _split_of(run: Run) -> object:
    return settings.read_json(run.folder / "split.json")


def _distractors(config: ProtectionConfig, faces: FaceSet, split: Split) -> np.ndarray:
    """Faces [M, H, W, 3] of everybody else: the split's and those of --distractors."""
    crowd = faces.images[split.distractors]
    if config.distractors:
        more = inputs.load_faces(config.distractors, faces.image_size, config.on_bad_image, config.cache)
        crowd = np.concatenate([crowd, more.images[:]])
    if len(crowd) == 0:
        raise UserError("no face is left to distract; name some with --distractors, or lower the parts of --split.")
    if config.max_distractors and len(crowd) > config.max_distractors:
        kept = np.random.default_rng(config.seed).choice(len(crowd), config.max_distractors, replace=False)
        crowd = crowd[np.sort(kept)]
    return crowd
