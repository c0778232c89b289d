"""Two simulated CPU devices for every test, and quick compilation for those that ask for it."""

import os
from collections.abc import Iterator

import pytest

# Before anything starts JAX's backends.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with slow tests first: two processes that share the modules then end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module")
def compile_quickly() -> Iterator[None]:
    """For modules whose time is mostly compilation, and whose results do not depend on how well it is done."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
