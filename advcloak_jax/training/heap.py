"""The C library's heap: memory that a step frees is kept for the next one, in huge pages, not faulted in anew."""

import ctypes
import importlib.metadata
import importlib.util
import mmap
import os
import platform
from pathlib import Path

# Parameters of glibc's mallopt(3).
TRIM_THRESHOLD = -1
MMAP_MAX = -4
ARENA_MAX = -8

HUGE_PAGE = 2**21
"""Bytes: x86's, and the least that others' are a multiple of."""
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def keep_on_cpu() -> bool:
    """Where JAX computes on the CPU, have the C library keep what this process frees; returns whether it does.

    XLA's CPU backend takes a program's buffers from the C library at every call and frees them. glibc maps large ones
    from the system each time, and every page of them is cleared when it is first touched: some 50,000 page faults in a
    training step at demo size, a fifth of its time. Kept, they cost as much memory as the largest call did, and are
    asked for in huge pages, which one fault and one entry of the processor's table map for 512 ordinary ones.
    To be called before anything makes threads, JAX's devices too: a thread stays with the arena that it began with.
    Elsewhere than on CPUs with glibc nothing is changed.
    """
    if not _computes_on_cpu() or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    # One arena for all threads: others than the first cannot hold large blocks and give back what they hold.
    kept = all(library.mallopt(name, value) for name, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)))
    if kept and platform.system() == "Linux":
        _ask_for_huge_pages(library)
    return kept


def _ask_for_huge_pages(library: ctypes.CDLL) -> None:
    """Let the heap's addresses grow by half of the machine's memory, and have Linux back them with huge pages.

    Addresses cost nothing until they are used, unless memory is promised strictly or addresses are limited: nothing is
    asked for then, nor where the system grants less. Where huge pages are off, Linux takes no notice.
    """
    import resource  # Windows has none

    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    if set(limits) != {resource.RLIM_INFINITY} or (OVERCOMMIT.exists() and OVERCOMMIT.read_text().strip() == "2"):
        return
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    block = library.malloc(size)
    if block:
        first, last = -(-block // HUGE_PAGE) * HUGE_PAGE, (block + size) // HUGE_PAGE * HUGE_PAGE
        library.madvise(first, last - first, mmap.MADV_HUGEPAGE)
        library.free(block)


def _computes_on_cpu() -> bool:
    """Whether JAX will choose the CPU, by its environment and what is installed: asking JAX makes threads."""
    if named := os.environ.get("JAX_PLATFORMS"):
        return named.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
