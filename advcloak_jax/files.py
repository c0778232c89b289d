"""Output files that are either whole or absent."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advcloak_jax.errors import UserError


def require_folder(path: Path, asked: str) -> None:
    """Raise UserError unless files can be put into a folder at `path`, which need not be there yet.

    To be called before long work. asked: how the user named it, as in "--out runs/table".
    """
    there = path.absolute()
    while not _is_there(there):
        there = there.parent
    if not there.is_dir():
        raise UserError(f"{asked} cannot be made: {there} is no folder; choose another one.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{asked} cannot be made: there is no permission to write to {there}; choose another one.")


def require_new_folder(path: Path, asked: str) -> None:
    """Raise UserError unless `new_folder` can make a folder at `path`, where an empty one may be."""
    if os.path.lexists(path):
        if path.is_symlink() or not path.is_dir() or any(path.iterdir()):
            raise UserError(f"{asked} exists already; name another folder.")
        if os.path.ismount(path):
            raise UserError(f"{asked} is where another disk is mounted; name a folder in it.")
    require_folder(path.absolute().parent, asked)


def require_file(path: Path, asked: str) -> None:
    """Raise UserError unless a file can be put at `path`, in place of one that is there; as `require_folder`."""
    require_folder(path.parent, asked)
    if path.is_dir():
        raise UserError(f"{asked} is a folder; name a file in it.")


def _is_there(path: Path) -> bool:
    """Also a link that leads nowhere, in whose place nothing can be made. Raises OSError for a name that cannot be."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()
        return True
    return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success move it to `path`, on any error remove it.

    The temporary name keeps the suffix of `path`, because image writers choose their format by it.
    Raises whatever the body raises; `path` is then as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success move it there, on any error remove it.

    `path` may be an empty folder. Raises whatever the body raises; `path` is then as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(path.parent.stat().st_mode & 0o777)
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")
