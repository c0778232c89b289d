"""Peak memory: of the devices where they tell it, else of the process."""

import resource
import sys

import jax


def peak() -> tuple[str, int]:
    """What is measured, "device" (the fullest of this process's) or "process" (resident set), and its bytes."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [int(one["peak_bytes_in_use"]) for one in stats if "peak_bytes_in_use" in one]
    if peaks:
        return "device", max(peaks)
    # Kilobytes, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return "process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
