"""Where a job's faces stay while it trains: on every device, shared between the devices, or on the disk."""

import sys

import jax

from advcloak_jax.config import FeedKind, TrainConfig
from advcloak_jax.training import distributed
from advcloak_jax.training.feed import Feed, ResidentFeed, Rows, ShardedFeed, StreamedFeed, row_bytes
from advcloak_jax.training.streaming import Order

SHARE = 0.5
"""Of a device's free memory that faces may take; the rest is for the networks, their gradients and activations."""


def make_feed(config: TrainConfig, rows: Rows, order: Order, devices: list[jax.Device], total: int) -> Feed:
    """The feed that the settings ask for, of rows [n, ...] and the order of `total` steps; says which, and why."""
    needed = row_bytes(rows)
    # One process decides, because all must do the same, and their free memory may differ.
    kind, reason = distributed.share(
        "feed", lambda: list(choose(config.feed, needed, free_bytes(devices), len(devices)))
    )
    if distributed.writes():
        print(f"Feed: {kind} ({reason}).", file=sys.stderr)
    if kind == "resident":
        return ResidentFeed(rows, order, devices, config.parallel)
    if kind == "sharded":
        return ShardedFeed(rows, order, devices, config.parallel)
    return StreamedFeed(rows, order, devices, config.parallel, total=total, workers=config.feed_workers)


def choose(asked: FeedKind, needed: int, free: int | None, devices: int) -> tuple[FeedKind, str]:
    """Kind of feed, and the reason in words.

    needed: bytes of all rows. free: bytes on each device; None where that is not known.
    """
    if asked != "auto":
        return asked, f"as asked; {_size(needed)} in all"
    if free is None:
        return "resident", f"{_size(needed)} on each device; its memory is not known"
    room = int(free * SHARE)
    about = f"{_size(needed)} in all, {_size(room)} of each device are for them"
    if needed <= room:
        return "resident", about
    if devices > 1 and -(-needed // devices) <= room:
        return "sharded", f"{about}, shared by {devices} devices"
    return "streamed", about


def free_bytes(devices: list[jax.Device]) -> int | None:
    """Memory that is free on each of this process's devices; None where neither JAX nor the system tells."""
    own = [device for device in devices if device.process_index == jax.process_index()]
    stats = [device.memory_stats() for device in own]
    if all(stats) and all("bytes_limit" in one for one in stats):
        return min(one["bytes_limit"] - one.get("bytes_in_use", 0) for one in stats)
    if own[0].platform == "cpu":
        # Simulated devices share the host's memory.
        available = _available_host_bytes()
        return None if available is None else available // len(own)
    return None


def _available_host_bytes() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
