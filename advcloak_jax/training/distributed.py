"""Several processes that share one job, on JAX's own runtime: their start, what they tell each other, their end.

Every process runs the same program on its own devices. Process 0 alone writes what is not a checkpoint. JAX's
coordination service, which process 0 runs, notices a lost process; whoever is left is then ended.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src import distributed as runtime
from jax.experimental import multihost_utils

from advcloak_jax.config.cluster import ClusterConfig
from advcloak_jax.errors import UserError
from advcloak_jax.training.last_words import LOST, LastWords, LostError, leave

T = TypeVar("T")
HEARTBEAT_SECONDS = 30
"""A process that has not been heard of for so long is lost, and all others are ended."""
TOGETHER_SECONDS = 5
"""How long a failing process waits for the others to fail of the same."""
_FOREVER = 7 * 24 * 3600 * 1000


@contextmanager
def joined(config: ClusterConfig) -> Iterator[None]:
    """Be one of the processes that the settings ask for; alone, where they ask for none. Before any use of devices.

    What others than process 0 print to standard output is dropped: it is the same.
    Raises UserError when the others cannot be found or do not all come, LostError for what JAX raises when one is gone.
    """
    if config.distributed == "off" and not config.coordinator:
        yield
        return
    if config.coordinator and config.process_id:
        _await_coordinator(config)
    words = LastWords()
    try:
        words.are(
            f"error: not all processes came within {config.initialization_timeout} s; check that all were started with "
            "the same --coordinator and --processes, each with a --process-id of its own, or raise "
            "--initialization-timeout."
        )
        _initialize(config)
        words.are(
            f"error: process {jax.process_index()} of {jax.process_count()} was ended from outside, most likely "
            "because another one was lost (their logs say which); start all of them again (training: with --resume)."
        )
        with contextlib.ExitStack() as quiet:
            if not writes():
                quiet.enter_context(contextlib.redirect_stdout(quiet.enter_context(open(os.devnull, "w"))))
            yield
    except BaseException as error:
        if lost_another(error):
            words.are(LOST)
            raise LostError(words) from error
        words.close()
        raise
    words.close()


def _initialize(config: ClusterConfig) -> None:
    # The loop has a handler of its own for SIGTERM, which this service would replace.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            config.coordinator or None,
            config.processes,
            config.process_id,
            # Without a cluster every device that the process can see is its own.
            cluster_detection_method="deactivate" if config.coordinator else None,
            initialization_timeout=config.initialization_timeout,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed auto finds no cluster here ({_first_line(error)}); give --coordinator, --processes and "
            "--process-id, or drop it."
        ) from error
    except RuntimeError as error:
        raise UserError(f"The processes cannot join ({_first_line(error)}).") from error


def _await_coordinator(config: ClusterConfig) -> None:
    """Wait until process 0 listens, because JAX would abort without a clear word if it never does."""
    host, _, port = config.coordinator.rpartition(":")
    ends = time.monotonic() + config.initialization_timeout
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > ends:
                raise UserError(
                    f"--coordinator {config.coordinator} was not reached within {config.initialization_timeout} s "
                    f"({error.strerror or error}); check the address, the port and that process 0 was started."
                ) from error
        time.sleep(0.2)


def _client() -> Any:
    """JAX's connection to process 0, which has no public name: a store of strings and barriers without a time limit."""
    return runtime.global_state.client


def active() -> bool:
    """Whether this process joined others."""
    return _client() is not None


def writes() -> bool:
    """Whether this process is the one that writes files and prints results."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Return once all processes are here, however long that takes."""
    if active():
        _client().wait_at_barrier(f"advcloak/{name}", _FOREVER)


def share(name: str, make: Callable[[], Any]) -> Any:
    """A JSON value that process 0 makes, at every process. The others wait for it, however long that takes."""
    if not active():
        return make()
    key = f"advcloak/{name}"
    if writes():
        _client().key_value_set(key, json.dumps(make()), allow_overwrite=True)
    barrier(f"{name}/made")
    value = json.loads(_client().blocking_key_value_get(key, _FOREVER))
    barrier(f"{name}/read")
    return value


def first_then_others(name: str, make: Callable[[], T]) -> T:
    """What `make` returns at each process; process 0 comes first, so that the others find what it leaves on disk."""
    if not writes():
        barrier(name)
        return make()
    value = make()
    barrier(name)
    return value


def gather_blocks(blocks: int, make: Callable[[int], np.ndarray]) -> list[np.ndarray]:
    """The arrays make(0) .. make(blocks - 1) at every process, each made by one of them in turn.

    make(i): [b, ...] float32; only the last may have a smaller b than the first.
    """
    count = jax.process_count()
    if count == 1:
        return [make(i) for i in range(blocks)]
    own = [make(i) for i in range(jax.process_index(), blocks, count)]
    # A process without a block learns from process 0, which has the first, what they are like.
    shape = share("shape of a block", lambda: own[0].shape)
    padded = np.zeros((-(-blocks // count), *shape), np.float32)
    rows = np.zeros(len(padded), np.int32)
    for place, block in enumerate(own):
        padded[place, : len(block)], rows[place] = block, len(block)
    barrier("blocks made")
    all_rows, everything = multihost_utils.process_allgather((rows, padded))
    return [everything[i % count, i // count, : all_rows[i % count, i // count]] for i in range(blocks)]


def lost_another(error: BaseException) -> bool:
    """Whether an error means that another process is gone: the connection to it broke, or it kept this one waiting.

    JAX raises what its runtime says as RuntimeError, or as ValueError when a call fails as it is started.
    """
    signs = ("Gloo", "NCCL", "Connection closed", "Connection reset", "UNAVAILABLE", "DEADLINE_EXCEEDED", "Barrier")
    return active() and isinstance(error, RuntimeError | ValueError) and any(sign in str(error) for sign in signs)


def fail(status: int) -> NoReturn:
    """End a process that has said why. The others, which may wait for it for ever, are ended by JAX's runtime."""
    if not active():
        raise SystemExit(status)
    # All of them fail together where the reason is the same.
    with contextlib.suppress(RuntimeError):
        _client().wait_at_barrier("advcloak/failed", TOGETHER_SECONDS * 1000)
    leave(status)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
