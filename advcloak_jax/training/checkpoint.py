"""Checkpoints of a run: asynchronous, atomic, checked when read, the newest few and the best one."""

import logging
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from advcloak_jax.errors import UserError
from advcloak_jax.training import checksums, distributed

PyTree = Any
_log = logging.getLogger("advcloak_jax")


class DamagedError(UserError):
    """A checkpoint that cannot be read."""


class Restored(NamedTuple):
    """Step, state and notes of a checkpoint."""

    step: int
    state: PyTree
    notes: dict[str, float]


def _rank(metrics: dict[str, Any]) -> float:
    return float(metrics["rank"])


class Checkpoints:
    """The checkpoints folder of one run: its `keep` newest and the one of the highest rank.

    Damaged ones are set aside when it is opened. Several processes open it, save to it and restore from it together;
    the folder is on a disk that all of them see.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder, self._saving = folder, 0
        set_aside_damaged(folder)
        options = ocp.CheckpointManagerOptions(
            best_fn=_rank,
            preservation_policy=AnyPreservationPolicy([LatestN(keep), BestN(get_metric_fn=_rank, n=1)]),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._sum_up),
        )
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handler)

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def newest(self, like: PyTree) -> Restored | None:
        """The newest checkpoint that can be read, as `restore` does, or None if there never was one.

        One that cannot be is set aside, and said so. Raises UserError when none is left.
        """
        while (step := self.latest()) is not None:
            try:
                return Restored(step, self.restore(step, like), self.notes(step))
            except DamagedError as error:
                # Several processes agree on the checksums only; what one of them cannot read, the others may have.
                if jax.process_count() > 1:
                    raise
                _set_aside(self._folder / str(step), str(error))
                self._manager.reload()
        if (aside := _aside(self._folder)).exists():
            raise UserError(f"{self._folder} holds no whole checkpoint any more (see {aside}); start a new --run.")
        return None

    def save(self, step: int, state: PyTree, rank: float | None, notes: dict[str, float] | None = None) -> None:
        """Start writing `state`; returns once it is copied. Without a rank (higher is better) it is never the best.

        `notes` are kept with it.
        """
        metrics = {"rank": -math.inf if rank is None else rank, "notes": notes or {}}
        self.wait()
        self._saving = step
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

    def notes(self, step: int) -> dict[str, float]:
        """What `save` was given as notes."""
        return dict((self._manager.metrics(step) or {}).get("notes", {}))

    def restore(self, step: int, like: PyTree) -> PyTree:
        """State of `step` with the structure, shapes and placement of `like`.

        Raises UserError when the checkpoint holds other shapes or names, DamagedError when it cannot be read.
        """
        where = self._folder / str(step)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        require_shapes(_shapes_of(self._manager, step, where), like, where)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except _UNREADABLE as error:
            raise _damaged(where, error) from error

    def _sum_up(self) -> None:
        """Add the checksums to a checkpoint that is written, just before it gets its final name."""
        if distributed.writes():
            for folder in self._half_written():
                checksums.write(folder)

    def _half_written(self) -> list[Path]:
        return list(self._folder.glob(f"{self._saving}.*tmp*"))

    def wait(self) -> None:
        """Block until every save is on disk; raises what the writing thread raised, and leaves nothing half-written."""
        try:
            self._manager.wait_until_finished()
        except Exception:
            if distributed.writes():
                for folder in self._half_written():
                    shutil.rmtree(folder, ignore_errors=True)
            raise

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
        where = folder / str(step)
        if (damage := checksums.damage(where)) is not None:
            raise _damaged(where, damage)
        # To NumPy: to JAX arrays it would want the devices that the run had.
        shapes = _shapes_of(manager, step, where)
        like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
        try:
            state = manager.restore(step, args=ocp.args.StandardRestore(like))
        except _UNREADABLE as error:
            raise _damaged(where, error) from error
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


def set_aside_damaged(folder: Path) -> None:
    """Move checkpoints whose files do not have their checksums out of a checkpoints folder, and say so."""
    if distributed.writes() and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name.isdigit() and (damage := checksums.damage(path)) is not None:
                _set_aside(path, damage)
    distributed.barrier(f"whole/{folder}")


def _set_aside(checkpoint: Path, damage: str) -> None:
    aside = _aside(checkpoint.parent)
    aside.mkdir(exist_ok=True)
    kept = aside / checkpoint.name
    number = 1
    while kept.exists():
        number += 1
        kept = aside / f"{checkpoint.name}-{number}"
    checkpoint.rename(kept)
    _log.warning("%s is damaged (%s); going on from the one before, keeping it as %s", checkpoint, damage, kept)


def _aside(folder: Path) -> Path:
    return folder.with_name("damaged")


_UNREADABLE = (ValueError, OSError, KeyError, AttributeError)
"""What Orbax raises for files that are missing, cut short or altered."""


def _shapes_of(manager: ocp.CheckpointManager, step: int, where: Path) -> PyTree:
    """What a checkpoint says that it holds. Raises DamagedError when it says nothing."""
    try:
        return manager.item_metadata(step).tree
    except _UNREADABLE as error:
        raise _damaged(where, error) from error


def _damaged(path: Path, cause: Exception | str) -> DamagedError:
    short = " ".join(str(cause).split())[:200]
    return DamagedError(f"{path} is damaged ({short}); remove it to go on from the one before, or start a new run.")
