"""From the command line to settings."""

import argparse
import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from advcloak_jax import presets, settings, sweep
from advcloak_jax.config import StartConfig, TrainConfig
from advcloak_jax.errors import UserError
from advcloak_jax.process import BAD_INPUT_STATUS
from advcloak_jax.settings_file import read_settings
from advcloak_jax.training import runs

T = TypeVar("T")
S = TypeVar("S", bound=StartConfig)


def parse(program: str, jobs: Mapping[str, type], arguments: Sequence[str]) -> tuple[str, Any]:
    """Job name and settings from `JOB --flag value ...`, with the combination of a sweep that this start trains.

    The defaults are the preset's, or with --resume those of the run in the folder, and over them those of --config.
    Raises UserError on an unknown or ill-typed flag, naming the nearest valid one. Exits with status 0 after --help and
    --sweep-list.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: python {program} {{{','.join(jobs)}}} [--flag value ...]\n")
        for name, kind in jobs.items():
            print(f"  {name:12s} {(kind.__doc__ or '').splitlines()[0]}")
        print(f"\n`python {program} JOB --help` explains every flag with its default.")
        raise SystemExit(0 if arguments else BAD_INPUT_STATUS)
    job = arguments[0]
    if job not in jobs:
        raise UserError(f"{job!r} is no job of {program}; use one of {', '.join(jobs)}.")
    config = _parsed(f"{program} {job}", jobs[job], arguments[1:], _defaults(job, jobs[job], arguments[1:]))
    if isinstance(config, TrainConfig):
        config = _of_sweep(config)
    return job, dataclasses.replace(config, cache=_cache_folder(config))


def parse_one(program: str, kind: type[S], arguments: Sequence[str], *, job: str) -> S:
    """Settings from `FILE --flag value ...` of a program that does one job, over those of --config.

    job: what the config.json of a run of this program says that it did. Raises UserError as `parse` does. Exits with
    status 0 after --help and --print-config.
    """
    config = _parsed(program, kind, arguments or ["--help"], _with_file(kind, job, arguments))
    if config.print_config:
        print_settings(config)
    if hasattr(config, "cache"):
        return dataclasses.replace(config, cache=_cache_folder(config))  # type: ignore[call-arg]
    return config


def print_settings(config: StartConfig) -> NoReturn:
    """Print what --config would need to ask for the same, and exit with status 0."""
    print(json.dumps(settings.to_dict(config), indent=2))
    raise SystemExit(0)


def _of_sweep(config: TrainConfig) -> TrainConfig:
    """The settings that this start trains with."""
    if not config.sweep:
        if config.sweep_list or config.sweep_index is not None:
            raise UserError("--sweep-list and --sweep-index belong to --sweep NAME=VALUE,VALUE; give it too.")
        return config
    if config.sweep_list:
        print(sweep.listing(config))
        raise SystemExit(0)
    return sweep.pick(config, os.environ)


def _cache_folder(config: Any) -> str:
    """Folder that --cache names; empty for none."""
    if config.cache != "auto":
        return "" if config.cache == "none" else config.cache
    beside = getattr(config, "run", "") or getattr(config, "out", "") or "runs/out"
    return str(Path(beside).parent / "cache")


def _parsed(program: str, kind: type[T], arguments: Sequence[str], default: T | None) -> T:
    complaint = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=program, args=arguments, config=(tyro.conf.FlagCreatePairsOff,), **options)
    except SystemExit as stop:
        if stop.code != BAD_INPUT_STATUS:
            raise
        command = program if program.startswith("python ") else f"python {program}"
        raise UserError(f"{_first_sentence(complaint.getvalue())} ({command} --help).") from None


def _first_sentence(box: str) -> str:
    """What tyro's complaint says, in one line: the first section below its title, and the flag it suggests, if any.

    The frame and the rules between sections are drawn with box characters, or spaces and hyphens where the terminal has
    no others.
    """
    sections: list[list[str]] = [[]]
    for line in (line.strip(" │") for line in box.splitlines()[1:]):
        if line.startswith(("──", "--")) and set(line) <= {"─", "-"}:
            sections.append([])
        elif line and not line.startswith("╰"):
            sections[-1].append(line)
    said, *others = [section for section in sections if section] or [[box.strip()]]
    suggested = [section[1] for section in others if section[0] == "Perhaps you meant:" and len(section) > 1]
    return "; perhaps you meant ".join([" ".join(said).rstrip("."), *suggested[:1]])


def _with_file(kind: type[S], job: str, arguments: Sequence[str]) -> S:
    """Defaults with what the file of --config holds; what has no default is still asked for."""
    required = {field.name: tyro.MISSING for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    default = kind(**required)
    known = _peek(arguments)
    if known is None or not known.config:
        return default
    return settings.from_dict(kind, read_settings(Path(known.config), job), f"--config {known.config}", default)


def _peek(arguments: Sequence[str]) -> argparse.Namespace | None:
    """The flags that decide the defaults of all others; None when one lacks its value, which tyro reports."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--preset", "--run", "--config"):
        peek.add_argument(name)
    peek.add_argument("--resume", action="store_true")
    try:
        return peek.parse_known_args(arguments)[0]
    except argparse.ArgumentError:
        return None


def _defaults(job: str, kind: type, arguments: Sequence[str]) -> Any:
    names = {field.name for field in dataclasses.fields(kind)}
    known = _peek(arguments)
    if known is None:
        return kind()
    values = read_settings(Path(known.config), job) if known.config else {}

    def with_file(default: Any) -> Any:
        return settings.from_dict(kind, values, f"--config {known.config}", default)

    preset = known.preset or values.get("preset")
    default: Any = with_file(presets.settings(job, kind, preset if isinstance(preset, str) else "paper"))
    if "resume" in names and known.resume:
        folder = Path(known.run or default.run)
        if (folder / "config.json").exists():
            run = runs.read_run(folder)
            if run.job == job:
                return with_file(dataclasses.replace(run.config, run=str(folder)))
    return default
