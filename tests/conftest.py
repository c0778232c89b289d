"""Two simulated CPU devices for every test, and quick compilation, which is most of the tests' time.

As for users, which takes far longer: `JAX_DISABLE_MOST_OPTIMIZATIONS=0
XLA_FLAGS=--xla_force_host_platform_device_count=2 ./test.sh`.
"""

import gc
import os
from collections import Counter
from collections.abc import Iterator

import pytest
import quick_compilation

# Before anything starts JAX's backends; processes that tests start have it from here.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = " ".join(["--xla_force_host_platform_device_count=2", *quick_compilation.accepted()])

import jax
from jax.experimental.compilation_cache import compilation_cache

from advcloak_jax import mappings, process

# Tracing is a fifth of the tests' time.
gc.set_threshold(*process.COLLECTOR)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with slow tests, then those with many: two processes that share them then end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, 0 if item.path in slow else -sizes[item.path]))


@pytest.fixture(scope="module", autouse=True)
def spare_the_collector() -> Iterator[None]:
    """What a module leaves behind, programs above all, is not for Python's collector to look through ever after."""
    yield
    # The next module may add a third of all mappings.
    mappings.spare(share=0.2)
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def forget_the_programs_folder() -> Iterator[None]:
    """Jobs keep compiled programs in their own `--cache`: without this, so would every later test, in that folder."""
    yield
    if jax.config.jax_compilation_cache_dir is not None:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
