"""What every group of settings needs: names of flags, and one sentence for a value that cannot be."""

import dataclasses
from collections.abc import Callable
from typing import Any

from advcloak_jax.errors import UserError

LARGEST, LARGEST_FLOAT = 2**31 - 1, 3.4e38


def flag(field: str) -> str:
    """Name of a field on the command line."""
    return "--" + field.replace("_", "-")


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_seed(seed: int) -> None:
    """Raises UserError for a seed of more than 32 bits: JAX keeps no more, so different ones would be the same."""
    require(0 <= seed < 2**32, f"--seed {seed} must be between 0 and {2**32 - 1}.")


def as_flag(field: str, value: Any) -> str:
    """How a setting is typed on the command line."""
    return f"{flag(field)} {value}"


def as_setting(field: str, value: Any) -> str:
    """How a setting of a method is typed."""
    return f"{field}={value}"


def require_numbers(config: Any, written: Callable[[str, Any], str] = as_flag, prefix: str = "") -> None:
    """Raises UserError for a setting that devices cannot hold: they count in int32 and measure in float32.

    `seed` is of 32 bits without a sign (`require_seed`), and an infinite bound, `lower` or `upper`, asks for none.
    """
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            require_numbers(value, written, f"{field.name}.")
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int) and name != "seed":
                require(abs(one) <= LARGEST, f"{written(name, one)} must be within {LARGEST}.")
            if isinstance(one, float) and name not in ("lower", "upper"):
                finite = abs(one) <= LARGEST_FLOAT
                require(finite, f"{written(name, one)} must be a finite number within {LARGEST_FLOAT:g}.")
