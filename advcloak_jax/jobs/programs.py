"""Compiled programs on disk."""

from pathlib import Path

import jax


def keep(cache: str) -> None:
    """Keep compiled programs in the folder `cache`, for the next process to take; "": do not."""
    if cache:
        jax.config.update("jax_compilation_cache_dir", str((Path(cache) / "programs").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
