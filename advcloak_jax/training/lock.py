"""One process at a time writes a run."""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from advcloak_jax.errors import UserError

_log = logging.getLogger("advcloak_jax")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the run in `folder`, which is made if needed, until the block or the process ends, however that ends.

    Raises UserError when another process holds it. On disks that cannot lock files a warning says so; Windows has no
    such locks.
    """
    if importlib.util.find_spec("fcntl") is None:
        yield
        return
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            # Of the process, not of the open file: what it starts does not go on holding it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"{folder} is in use by another process; wait for its end, or name another --run."
            ) from None
        except OSError as error:
            _log.warning("%s cannot be locked (%s): see to it that no other process trains there", folder, error)
        yield
