"""Run one measurement."""

from pathlib import Path

from advcloak_jax.config import AblationConfig, TableConfig, TargetsConfig, VerifyConfig
from advcloak_jax.files import require_file, require_folder
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
        if config.out:
            require_folder(Path(config.out), f"--out {config.out}")
        run_targets(config)
        return
    with distributed.joined(config):
        if distributed.writes():
            require_folder(Path(config.out), f"--out {config.out}")
            if isinstance(config, TableConfig) and config.report:
                require_file(Path(config.report), f"--report {config.report}")
        if isinstance(config, TableConfig):
            run_table(config)
        elif isinstance(config, AblationConfig):
            run_ablation(config)
        else:
            run_verify(config)
