"""What each program does with its arguments.

What the work needs, JAX and more, takes seconds to import. It is imported once the flags have been read, so that help
and a mistyped flag do not wait for it.
"""

from collections.abc import Sequence

from advcloak_jax import cli
from advcloak_jax.config import (
    AblationConfig,
    ExportConfig,
    ImportConfig,
    PrepareConfig,
    ProtectConfig,
    TableConfig,
    TargetsConfig,
    VerifyConfig,
)
from advcloak_jax.training import runs

EVALUATIONS: dict[str, type] = {
    "table": TableConfig,
    "ablation": AblationConfig,
    "verify": VerifyConfig,
    "targets": TargetsConfig,
}
EXPORT = "python -m advcloak_jax.export"
PROTECT = "protect.py"
PREPARE = "python -m advcloak_jax.data.prepare"
IMPORT_WEIGHTS = "python -m advcloak_jax.recognizers.import_weights"


def train(arguments: Sequence[str]) -> None:
    """`train.py JOB --flag value ...`. Raises UserError on bad input, as all of these do."""
    job, config = cli.parse("train.py", runs.JOBS, arguments)
    from advcloak_jax.jobs import train as training

    training.run(job, config)


def evaluate(arguments: Sequence[str]) -> None:
    """`evaluate.py JOB --flag value ...`."""
    _, config = cli.parse("evaluate.py", EVALUATIONS, arguments)
    if config.print_config:
        cli.print_settings(config)
    from advcloak_jax.jobs import evaluate as evaluation

    evaluation.run(config)


def protect(arguments: Sequence[str]) -> None:
    """`protect.py PHOTOS OUT --flag value ...`."""
    config = cli.parse_one(PROTECT, ProtectConfig, arguments, job="protect")
    from advcloak_jax.jobs import protect as protection

    protection.run(config)


def export(arguments: Sequence[str]) -> None:
    """`python -m advcloak_jax.export RUN OUT --flag value ...`."""
    config = cli.parse_one(EXPORT, ExportConfig, arguments, job="export")
    from advcloak_jax.jobs.export import run_export

    run_export(config)


def prepare(arguments: Sequence[str]) -> None:
    """`python -m advcloak_jax.data.prepare SOURCE OUT --flag value ...`."""
    config = cli.parse_one(PREPARE, PrepareConfig, arguments, job="prepare")
    from advcloak_jax.jobs import prepare as preparation

    preparation.run(config)


def import_weights(arguments: Sequence[str]) -> None:
    """`python -m advcloak_jax.recognizers.import_weights FILE --flag value ...`."""
    config = cli.parse_one(IMPORT_WEIGHTS, ImportConfig, arguments, job=runs.IMPORTED)
    from advcloak_jax.jobs.import_weights import run_import

    run_import(config)
