"""Memory mappings: a compiled program has hundreds to thousands on CPUs, and Linux grants a process 65,530.

At that number jaxlib 0.10 ends the process: by "Unable to allocate section memory" when it compiles, or by a
segmentation fault when it writes a program to the folder of compiled ones.
"""

import gc
from pathlib import Path

import jax

HELD = Path("/proc/self/maps")
GRANTED = Path("/proc/sys/vm/max_map_count")


def spare(share: float = 0.5) -> bool:
    """Drop all compiled programs if this process holds more than a share of the mappings it may have.

    Returns whether it did. Programs still in use are compiled again when they are next called, or read from the folder
    of compiled ones. To be called between pieces of work that compile their own, of which there may be many: an
    attack's step on full-size networks holds 3,000 mappings, a training step 4,000. Does nothing where the system does
    not tell its numbers, as it is on others than Linux.
    """
    if not (HELD.exists() and GRANTED.exists()):
        return False
    if len(HELD.read_bytes().splitlines()) <= share * int(GRANTED.read_text()):
        return False
    jax.clear_caches()
    gc.collect()
    return True
