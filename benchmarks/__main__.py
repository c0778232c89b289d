"""Throughput, cost and floors. Each subcommand prints a table and, with --out FILE.json, stores the figures."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from advcloak_jax.errors import UserError
from advcloak_jax.files import require_file, require_folder, write_json

SUBCOMMANDS = {
    "recognisers": "training and embedding of every backbone",
    "stages": "training steps of stage I and II, with every subspace",
    "masks": "mask making by each method",
    "projection": "the hull projection alone, against CVX, SciPy and PyTorch",
    "identification": "1:N evaluation, against a sort per trial and faiss",
    "inputs": "the input pipeline: decoding, synthetic faces, and the gather on the device",
    "startup": "import, first compilation, and compilation with a filled cache",
    "memory": "peak memory of every step",
    "ahead": "a stage's step compiled for a GPU that is not there: memory, kernels, bytes",
    "batches": "a stage's step over batch sizes",
    "floors": "FLOP, bytes and floor times of networks and steps, and how far from them we are",
    "scaling": "bytes that devices exchange in a step, and weak scaling on simulated devices and processes",
    "candidates": "ways to make a step faster, old and new in turns",
    "operations": "where the time of a step goes, by layers",
}
MAY_BE_ZERO = ("steps", "checked", "distractors", "sorted", "peer_persons")
"""Options of which 0 means something: as published, none, all."""


def parser(chosen: str | None) -> argparse.ArgumentParser:
    """The command line; only the chosen subcommand is imported, for some need what others must do without."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = top.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    for name, description in SUBCOMMANDS.items():
        command = commands.add_parser(name, help=description, description=description)
        command.add_argument("--repeats", type=int, default=5, help="timed calls after the warm-up (default 5)")
        command.add_argument("--quick", action="store_true", help="tiny sizes: only check that it runs")
        command.add_argument("--cache", type=Path, help="folder for compiled programs (default: none)")
        command.add_argument(
            "--give-back", action="store_true", help="leave freed memory to the C library, as jobs do not"
        )
        command.add_argument("--out", type=Path, help="JSON file for the figures")
        if name == chosen:
            module(name).add_arguments(command)
    return top


def require_usable(options: argparse.Namespace) -> None:
    """Raise UserError for a number of things that cannot be, and for files that cannot be made."""
    for name, value in vars(options).items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int) and not isinstance(one, bool) and one < (name not in MAY_BE_ZERO):
                raise UserError(f"--{name.replace('_', '-')} {one} is too small; give a larger one.")
    if options.cache:
        require_folder(options.cache, f"--cache {options.cache}")
    if options.out:
        require_file(options.out, f"--out {options.out}")


def module(name: str) -> Any:
    """The module of a subcommand."""
    return importlib.import_module(f"benchmarks.{name}")


def main(arguments: list[str]) -> int:
    """Run one subcommand; returns the exit status."""
    options = parser(arguments[0] if arguments and arguments[0] in SUBCOMMANDS else None).parse_args(arguments)
    from advcloak_jax.training import heap
    from benchmarks import report

    keeps_memory = not options.give_back and heap.keep_on_cpu()
    try:
        require_usable(options)
        if options.cache:
            report.use_cache(options.cache)
        outcome = module(options.subcommand).run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return 130
    print(report.render(outcome))
    if options.out:
        about = report.facts() | {"subcommand": options.subcommand, "settings": dict(outcome.settings)}
        # With a filled cache the first calls say nothing about compilation.
        about["compilation_cache"] = options.cache is not None
        about["keeps_freed_memory"] = keeps_memory
        write_json(options.out, about | dict(outcome.figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
