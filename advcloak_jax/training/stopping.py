"""Stopping in good order: SIGTERM to any one process is known to all of them after the same call."""

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

SIGTERM_STATUS = 143


class Stop:
    """While it is entered, SIGTERM only asks to stop.

    due: whether to stop now. Alone, as soon as asked. Several processes vote with every call, by a collective behind
    the call's own work, and count the vote once the next call is under way: no process waits for it, and all of them
    count it after the same step.

    devices: those of all processes that the calls work on. Only they vote: on an idle device the vote would not wait
    behind the call, but keep a thread that the call may need.
    """

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        self.due = False
        self._asked_at: float | None = None
        self._waiting: jax.Array | None = None
        self._vote = _ballot_box(devices) if jax.process_count() > 1 else None

    def cast(self) -> None:
        """Take part in the vote of a call just dispatched, and count the vote before it."""
        if self._vote is None:
            return
        counted, self._waiting = self._waiting, self._vote(self._asked_at is not None)
        self.due = counted is not None and bool(np.asarray(counted))

    def seconds_since_asked(self) -> float | None:
        """Time since this process got its signal; None if it got none."""
        return None if self._asked_at is None else time.monotonic() - self._asked_at

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked_at = self._asked_at or time.monotonic()
        self.due = self.due or self._vote is None

    def __enter__(self) -> "Stop":
        self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)


def _ballot_box(devices: Sequence[jax.Device]) -> Callable[[bool], jax.Array]:
    """wish of this process -> whether any process wishes, on the devices."""
    mesh = Mesh(np.array(devices), ("voters",))
    own = sum(device.process_index == jax.process_index() for device in devices)
    ballots = {
        wish: jax.make_array_from_process_local_data(NamedSharding(mesh, P("voters")), np.full(own, wish))
        for wish in (False, True)
    }
    count: Any = jax.jit(lambda wishes: wishes.any(), out_shardings=NamedSharding(mesh, P()))
    return lambda wish: count(ballots[wish])
