"""Freed memory is kept: a program's buffers are faulted in by its first call only."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from advcloak_jax.training import heap

if sys.argv[1] == "kept":
    assert heap.keep_on_cpu()
# 64 MB between two products, which XLA takes from the C library at every call.
program = jax.jit(lambda x: ((x @ x.T) @ x).sum())
x = jnp.ones((4096, 8))
for _ in range(3):
    program(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    program(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str) -> int:
    """Page faults of four calls."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
    return int(ended.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_buffers_are_faulted_in_once() -> None:
    # A call's 64 MB are 16,384 pages of 4 KiB, or 32 of 2 MiB.
    given_back, kept = faults("as it is"), faults("kept")
    assert given_back >= 4 * 32
    assert kept < given_back / 4
