"""A sweep: one run for every combination of values, picked by its number, as SLURM's array jobs count them."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from advcloak_jax import settings
from advcloak_jax.config import TrainConfig
from advcloak_jax.errors import UserError

Config = TypeVar("Config", bound=TrainConfig)
ARRAY_TASK = "SLURM_ARRAY_TASK_ID"
FIXED = ("run", *settings.NOT_STORED)
"""Settings that cannot be swept."""


class Combination(NamedTuple):
    """One run of a sweep: the name of its folder in --run, and the texts of its settings by name."""

    name: str
    texts: dict[str, str]


def combinations(sweep: Sequence[str]) -> list[Combination]:
    """All combinations of `NAME=VALUE,VALUE ...`, the last setting changing fastest.

    Raises UserError for what is not of that form, a setting that is named twice, or values whose folders would be one.
    """
    axes: dict[str, list[str]] = {}
    for part in sweep:
        name, equals, values = part.partition("=")
        texts = values.split(",")
        if not (name and equals and all(texts)):
            raise UserError(f"--sweep {part} must be NAME=VALUE,VALUE, as in learning_rate=1e-8,2e-8.")
        name = name.replace("-", "_")
        if name in axes:
            raise UserError(f"--sweep names {name} twice; put all of its values behind one.")
        if name in FIXED:
            raise UserError(f"--sweep {part} is no setting that runs can differ in; drop it.")
        axes[name] = texts
    found = []
    for choice in itertools.product(*axes.values()):
        pairs = dict(zip(axes, choice, strict=True))
        folder = ",".join(f"{name}={re.sub(r'[^A-Za-z0-9_.+-]', '_', text)}" for name, text in pairs.items())
        found.append(Combination(folder, pairs))
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--sweep has two combinations whose folder would be {name}; give each value once.")
    return found


def pick(config: Config, environment: Mapping[str, str]) -> Config:
    """Settings of the combination that --sweep-index or SLURM's array task asks for, in its own folder below --run.

    Raises UserError when nothing says which, there is none of that number, or its settings are not valid.
    """
    found = combinations(config.sweep)
    last = len(found) - 1
    if config.sweep_index is not None:
        asked, index = f"--sweep-index {config.sweep_index}", config.sweep_index
    elif ARRAY_TASK in environment:
        asked, index = f"{ARRAY_TASK} {environment[ARRAY_TASK]}", _number(environment[ARRAY_TASK])
    else:
        raise UserError(
            f"--sweep has {len(found)} combinations and nothing says which one to train: give --sweep-index, "
            f"or start it as an array job (sbatch --array=0-{last})."
        )
    if not 0 <= index <= last:
        raise UserError(f"{asked} is the number of no combination: they go from 0 to {last} (--sweep-list).")
    return applied(config, found[index])


def applied(config: Config, one: Combination) -> Config:
    """`config` with one combination's settings and folder. Raises UserError for an unknown or ill-typed setting."""
    kind = type(config)
    values: dict[str, Any] = {}
    for name, text in one.texts.items():
        value, first = settings.from_text(kind, name, text), name.partition(".")[0]
        values[first] = {**values[first], **value} if isinstance(value, dict) and first in values else value
    changed = settings.from_dict(kind, values, "--sweep", config)
    return dataclasses.replace(changed, run=f"{config.run}/{one.name}", sweep=(), sweep_index=None)


def listing(config: TrainConfig) -> str:
    """A line for every combination: its number and its folder. Raises UserError as `pick` does."""
    lines = []
    for number, one in enumerate(combinations(config.sweep)):
        lines.append(f"{number:4d}  {applied(config, one).run}")
    return "\n".join(lines)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{ARRAY_TASK} is {text!r}, which is no number; start the sweep as a SLURM array job.")
    return int(text)
