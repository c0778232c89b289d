"""What every group of settings needs: names of flags, and one sentence for a value that cannot be."""

from advcloak_jax.errors import UserError


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
