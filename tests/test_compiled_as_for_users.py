"""Compiled as for users, training steps compute what they do compiled quickly, as tests compile everything else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import workloads
from benchmarks.sizes import SIZES

TESTS = Path(__file__).parent
QUICKLY = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")


def losses() -> list[dict[str, float]]:
    """The metrics of two steps of stage II with the convex hull, which has all networks and the projection."""
    size = SIZES["quick"]
    step = workloads.stage(
        "convex-hull", size, workloads.noise_faces(8, size.image, 4), workloads.fresh_variables(size)
    )
    return [{name: float(np.ravel(value)[0]) for name, value in step().items()} for _ in range(2)]


@pytest.mark.slow
def test_steps_are_the_same() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in QUICKLY}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    program = f"import json, {Path(__file__).stem} as test; print(json.dumps(test.losses()))"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    users = json.loads(done.stdout)
    for here, there in zip(losses(), users, strict=True):
        assert here.keys() == there.keys()
        for name, value in here.items():
            assert there[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
