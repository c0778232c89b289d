"""The C library's heap: memory that a step frees is kept for the next one instead of being faulted in anew."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

# Parameters of glibc's mallopt(3).
TRIM_THRESHOLD = -1
MMAP_MAX = -4
ARENA_MAX = -8


def keep_on_cpu() -> bool:
    """Where JAX computes on the CPU, have the C library keep what this process frees; returns whether it does.

    XLA's CPU backend takes a program's buffers from the C library at every call and frees them. glibc maps large ones
    from the system each time, and every page of them is cleared when it is first touched: some 50,000 page faults in a
    training step at demo size, a fifth of its time. Kept, they cost as much memory as the largest call did.
    To be called before anything makes threads, JAX's devices too: a thread stays with the arena that it began with.
    Elsewhere than on CPUs with glibc nothing is changed.
    """
    if not _computes_on_cpu() or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena for all threads: others than the first cannot hold large blocks and give back what they hold.
    return all(mallopt(name, value) for name, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)))


def _computes_on_cpu() -> bool:
    """Whether JAX will choose the CPU, by its environment and what is installed: asking JAX makes threads."""
    if named := os.environ.get("JAX_PLATFORMS"):
        return named.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
