"""Two simulated CPU devices for every test, and the outside data that some tests use when it is there."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real faces and recognisers beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "faces").is_dir():
        pytest.skip(f"no real faces in {folder}")
    return folder
