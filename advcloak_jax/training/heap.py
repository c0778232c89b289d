"""The C library's heap: memory that a step frees is kept for the next one instead of being faulted in anew."""

import ctypes
import platform

import jax

# Parameters of glibc's mallopt(3).
TRIM_THRESHOLD = -1
MMAP_MAX = -4
ARENA_MAX = -8


def keep_on_cpu() -> bool:
    """On CPUs, have the C library keep what the process frees; returns whether it does. Uses JAX's devices.

    XLA's CPU backend takes a program's buffers from the C library at every call and frees them. glibc maps large ones
    from the system each time, which clears every page of them when it is first touched: some 30,000 page faults in a
    training step at demo size, a tenth of its time and more. Kept, they cost as much memory as the largest call did.
    Elsewhere than on CPUs with glibc nothing is changed.
    """
    if jax.default_backend() != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena for all threads: others than the first cannot hold large blocks and give back what they hold.
    return all(mallopt(name, value) for name, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)))
