"""Compiled programs on disk."""

from pathlib import Path

import jax

from advcloak_jax.files import require_folder


def keep(cache: str) -> None:
    """Keep compiled programs in the folder `cache`, for the next process to take; "": do not.

    Raises UserError for a folder that cannot be made.
    """
    if cache:
        require_folder(Path(cache), f"--cache {cache}")
        jax.config.update("jax_compilation_cache_dir", str((Path(cache) / "programs").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
