"""Checkpoints of a run: asynchronous, atomic, the newest few and the best one."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from advcloak_jax.errors import UserError

PyTree = Any


def _rank(metrics: dict[str, Any]) -> float:
    return float(metrics["rank"])


class Checkpoints:
    """The checkpoints folder of one run: its `keep` newest and the one of the highest rank."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        options = ocp.CheckpointManagerOptions(
            best_fn=_rank,
            preservation_policy=AnyPreservationPolicy([LatestN(keep), BestN(get_metric_fn=_rank, n=1)]),
            cleanup_tmp_directories=True,
        )
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handler)

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree, rank: float | None, notes: dict[str, float] | None = None) -> None:
        """Start writing `state`; returns once it is copied. Without a rank (higher is better) it is never the best.

        `notes` are kept with it.
        """
        metrics = {"rank": -math.inf if rank is None else rank, "notes": notes or {}}
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

    def notes(self, step: int) -> dict[str, float]:
        """What `save` was given as notes."""
        return dict((self._manager.metrics(step) or {}).get("notes", {}))

    def restore(self, step: int, like: PyTree) -> PyTree:
        """State of `step` with the structure, shapes and placement of `like`.

        Raises UserError when the checkpoint holds other shapes or names.
        """
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        try:
            require_shapes(self._manager.item_metadata(step).tree, like, self._folder / str(step))
            return self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except (ValueError, FileNotFoundError) as error:
            raise _mismatch(self._folder / str(step), error) from error

    def wait(self) -> None:
        """Block until every save is on disk; raises what the writing thread raised."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and stop the threads."""
        self._manager.close()


def read_checkpoint(folder: Path, *, best: bool) -> tuple[int, PyTree]:
    """Step and state (nested dicts of NumPy arrays) of the best or the newest checkpoint in a checkpoints folder.

    Raises UserError when there is none, or it cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: that run has no checkpoint; train it first or name another run.")
    options = ocp.CheckpointManagerOptions(best_fn=_rank, read_only=True)
    handler = ocp.StandardCheckpointHandler()
    with ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handler) as manager:
        step = manager.best_step() if best else manager.latest_step()
        if step is None:
            raise UserError(f"{folder} holds no checkpoint; train that run first or name another one.")
        try:
            # To NumPy: to JAX arrays it would want the devices that the run had.
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), manager.item_metadata(step).tree)
            state = manager.restore(step, args=ocp.args.StandardRestore(like))
        except (ValueError, FileNotFoundError) as error:
            raise _mismatch(folder / str(step), error) from error
    return step, state


def require_shapes(found: PyTree, expected: PyTree, where: Path) -> None:
    """Raise UserError naming `where` and the first array that only one tree has or that differs in shape."""
    have, want = _shapes(found), _shapes(expected)
    for name in sorted(have.keys() | want.keys()):
        if have.get(name) != want.get(name):
            raise UserError(
                f"{where} was made with other settings: {name} is {have.get(name, 'missing')} there and "
                f"{want.get(name, 'missing')} by config.json; restore the settings it was made with."
            )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Shape of every array by its path, the same for tuples, dataclasses and the dicts they are stored as."""

    def name(key: Any) -> str:
        return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))

    return {"/".join(map(name, path)): tuple(leaf.shape) for path, leaf in jax.tree.leaves_with_path(tree)}


def _mismatch(path: Path, error: Exception) -> UserError:
    cause = " ".join(str(error).split())[:200]
    return UserError(f"{path} is damaged ({cause}); remove it to go on from the one before, or start a new run.")
