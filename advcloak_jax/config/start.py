"""Settings of one start of a program, which say where its other settings come from; they are not stored in a run."""

import dataclasses

from advcloak_jax.config.checks import require_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Settings that every job has."""

    config: str = ""
    """File of settings (.json, .yaml): replaces defaults, flags override it. A run's config.json repeats the run."""
    print_config: bool = False
    """Print all settings as JSON, as --config takes them, and stop."""

    def __post_init__(self) -> None:
        require_numbers(self)
