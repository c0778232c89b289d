"""From the command line to settings, and from errors to one sentence and an exit status."""

import argparse
import contextlib
import dataclasses
import errno
import gc
import io
import json
import logging
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from advcloak_jax import presets, settings, sweep
from advcloak_jax.config import StartConfig, TrainConfig, flag
from advcloak_jax.errors import UserError
from advcloak_jax.settings_file import read_settings
from advcloak_jax.training import heap, last_words, runs

BAD_INPUT_STATUS = 2
UNREAD_STATUS = 141
"""Exit status of a process whose output nobody reads any more: a shell's for SIGPIPE."""
COLLECTOR = (20_000, 20, 50)
"""Thresholds of Python's garbage collector. With its own, a seventh of the time of tracing is spent on looking through
what a trace has made so far, which is nearly all in use."""
LARGEST = 2**31 - 1
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
            found = tyro.cli(kind, prog=program, args=arguments, config=(tyro.conf.FlagCreatePairsOff,), **options)
    except SystemExit as stop:
        if stop.code != BAD_INPUT_STATUS:
            raise
        command = program if program.startswith("python ") else f"python {program}"
        raise UserError(f"{_first_sentence(complaint.getvalue())} ({command} --help).") from None
    _require_whole_numbers_of_32_bits(found)
    return found


def _require_whole_numbers_of_32_bits(config: Any, prefix: str = "") -> None:
    """What is counted is an int32 on the device. Seeds have a range of their own."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            _require_whole_numbers_of_32_bits(value, f"{field.name}.")
        elif isinstance(value, int) and field.name != "seed" and abs(value) > LARGEST:
            raise UserError(f"--{prefix}{flag(field.name)[2:]} {value} is more than {LARGEST}; lower it.")


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


def run_main(main: Callable[[Sequence[str]], None]) -> None:
    """Run a command's `main(arguments)`; tell errors the user can fix in one sentence and exit with status 2."""
    _open_closed_streams()
    heap.keep_on_cpu()
    gc.set_threshold(*COLLECTOR)
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING, force=True)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_worth_telling)
    threading.excepthook = _thread_failed
    sys.unraisablehook = _callback_failed
    try:
        with _as_long_as_somebody_reads():
            main(sys.argv[1:])
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("Interrupted; --resume continues from the last checkpoint.", file=sys.stderr)
        _end(130)
    except last_words.LostError:
        last_words.leave(last_words.LOST_STATUS)
    except Exception as error:
        if sentence := _of_the_machine(error):
            _fail(sentence)
        if _joined():
            traceback.print_exc()
            _end(1)
        raise


def _open_closed_streams() -> None:
    """Open what a shell has closed (`>&-`): the next files would else be opened in its place, and be written into."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # In this order each gets its own number, the lowest that is free.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


@contextlib.contextmanager
def _as_long_as_somebody_reads() -> Iterator[None]:
    """Ends the process without a word once nobody reads standard output any more, as behind `--help | head`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        # What is still to be written goes nowhere: the interpreter would complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _end(UNREAD_STATUS)


def _reader_is_gone() -> bool:
    if not hasattr(select, "poll"):  # Windows tells it by another error
        return False
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _worth_telling(record: logging.LogRecord) -> bool:
    """Libraries log their bookkeeping, and with a traceback what they also raise: that arrives here as an exception.

    A filter, as these loggers are the libraries' own to make, which come after this.
    """
    return record.levelno >= logging.CRITICAL or not record.name.startswith(("absl", "asyncio", "concurrent.futures"))


def _thread_failed(arguments: threading.ExceptHookArgs) -> None:
    """On a full disk background writers fail as the main thread does, which says so in its one sentence."""
    if _of_the_machine(arguments.exc_value) is None:
        threading.__excepthook__(arguments)


def _callback_failed(arguments: "sys.UnraisableHookArgs") -> None:
    """When a checkpoint's writer fails, the arrays that are still under way find its event loop closed, each with a
    traceback from the library's own threads; the writer's error arrives in the main thread."""
    if not (isinstance(arguments.exc_value, RuntimeError) and str(arguments.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(arguments)


def _of_the_machine(error: BaseException | None) -> str | None:
    """A sentence for a full disk, a missing permission or an impossible path along the chain of causes, or for a full
    memory; else None."""
    whole = error
    while error is not None:
        number = getattr(error, "errno", None)
        where = getattr(error, "filename", None) or "the output folder"
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return f"The disk of {where} is full; free some space and start again (training: with --resume)."
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"No permission to use {where}; choose a folder that you may write to, or change its permissions."
        if number in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP):
            return f"{str(where)[:200]} is no path that can be used ({os.strerror(number)}); choose another one."
        error = error.__cause__ or error.__context__
    if isinstance(whole, MemoryError) or "RESOURCE_EXHAUSTED" in str(whole):
        said = str(whole).strip().split("\n")[0][:200].rstrip(".")
        return f"There is not enough memory ({said}); lower the batch, the size of images or the width of networks."
    return None


def _fail(sentence: str, status: int = BAD_INPUT_STATUS) -> NoReturn:
    # What threads and exit handlers still try finds the disk full or its queues closed: the sentence says it.
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
    print(f"error: {sentence}", file=sys.stderr)
    _end(status)


def _joined() -> bool:
    """Whether this process has joined others, for which it needs JAX; help and bad flags do without."""
    if "jax" not in sys.modules:
        return False
    from advcloak_jax.training import distributed

    return distributed.active()


def _end(status: int) -> NoReturn:
    if not _joined():
        raise SystemExit(status)
    from advcloak_jax.training import distributed

    distributed.fail(status)
