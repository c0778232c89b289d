"""Run one measurement."""

from advcloak_jax.config import AblationConfig, TableConfig, TargetsConfig, VerifyConfig
from advcloak_jax.jobs import programs
from advcloak_jax.jobs.ablation import run_ablation
from advcloak_jax.jobs.list_targets import run_targets
from advcloak_jax.jobs.table import run_table
from advcloak_jax.jobs.verify import run_verify
from advcloak_jax.training import distributed


def run(config: TableConfig | AblationConfig | VerifyConfig | TargetsConfig) -> None:
    """The measurement that the settings are of. Raises UserError when they cannot be met."""
    programs.keep(config.cache)
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
