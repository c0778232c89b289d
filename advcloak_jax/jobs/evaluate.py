"""`evaluate.py`: parse and run one measurement."""

from collections.abc import Sequence

from advcloak_jax import cli
from advcloak_jax.config import AblationConfig, TableConfig, TargetsConfig, VerifyConfig
from advcloak_jax.jobs.ablation import run_ablation
from advcloak_jax.jobs.list_targets import run_targets
from advcloak_jax.jobs.table import run_table
from advcloak_jax.jobs.train import use_compilation_cache
from advcloak_jax.jobs.verify import run_verify
from advcloak_jax.training import distributed

JOBS: dict[str, type] = {
    "table": TableConfig,
    "ablation": AblationConfig,
    "verify": VerifyConfig,
    "targets": TargetsConfig,
}


def main(arguments: Sequence[str]) -> None:
    """`evaluate.py JOB --flag value ...`."""
    _, config = cli.parse("evaluate.py", JOBS, arguments)
    if config.print_config:
        cli.print_settings(config)
    use_compilation_cache(config.cache)
    if isinstance(config, TargetsConfig):
        run_targets(config)
        return
    with distributed.joined(config):
        if isinstance(config, TableConfig):
            run_table(config)
        elif isinstance(config, AblationConfig):
            run_ablation(config)
        else:
            run_verify(config)
