"""Freed memory is kept: a program's buffers are faulted in by its first call only."""

import platform
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from advcloak_jax.training import heap

PROGRAM = """
import functools, pathlib, resource, sys
import jax, jax.numpy as jnp
from advcloak_jax.training import heap

if sys.argv[1] == "kept":
    assert heap.keep_on_cpu()
# Convolutions, whose buffers XLA's own threads take: 16 MB each.
program = jax.jit(lambda x, k: sum(jax.lax.conv(x, k * i, (1, 1), "SAME").sum() for i in range(4)))
program = functools.partial(program, jnp.ones((1, 16, 512, 512)), jnp.ones((16, 16, 3, 3)))
for _ in range(10):
    program().block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    program().block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
rollup = pathlib.Path("/proc/self/smaps_rollup")
lines = rollup.read_text().splitlines() if rollup.exists() else []
print(*[line.split()[1] for line in lines if line.startswith("AnonHugePages")])
"""


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def measured(way: str, *limits: str) -> list[int]:
    """Page faults of four calls and, where Linux tells, KiB in huge pages. `limits` are the shell's, set before."""
    command = " && ".join([*limits, 'exec "$0" "$@"'])
    program = ["sh", "-c", command, sys.executable, "-c", PROGRAM, way]
    return [int(word) for word in subprocess.run(program, capture_output=True, text=True, check=True).stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_buffers_are_faulted_in_once() -> None:
    # 16 MB are 4,096 pages of 4 KiB, or 8 of 2 MiB.
    given_back, kept = measured("as it is")[0], measured("kept")[0]
    assert given_back >= 4 * 8
    assert kept < given_back / 4


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(), reason="huge pages are off or unknown here"
)
def test_kept_memory_lies_in_huge_pages_unless_addresses_are_limited() -> None:
    assert measured("kept")[1] >= 16 * 1024  # of four buffers as large, should memory be in pieces
    if "[madvise]" in HUGE_PAGES.read_text():
        assert measured("kept", "ulimit -d 4000000")[1] < 16 * 1024


@pytest.mark.parametrize(
    ("named", "plugins", "is_cpu"),
    [("cpu", ["cuda"], True), ("cuda,cpu", [], False), ("tpu", [], False), ("", [], True), ("", ["cuda"], False)],
)
def test_accelerators_are_left_alone(
    named: str, plugins: list[str], is_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    library = mock.Mock(mallopt=lambda name, _: told.append(name) or 1)
    library.malloc.return_value = None  # the system may grant no addresses
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(heap.importlib.metadata, "entry_points", lambda group: plugins)
    monkeypatch.setattr(heap.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("JAX_PLATFORMS", named)
    assert heap.keep_on_cpu() is is_cpu
    assert bool(told) is is_cpu
