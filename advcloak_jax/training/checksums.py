"""SHA-256 of every file of a checkpoint, in the checkpoint itself, so that a torn or altered one is noticed.

`sha256sum -c SHA256SUMS` in the folder checks it by hand.
"""

import hashlib
from pathlib import Path

NAME = "SHA256SUMS"
UNCHECKED = (NAME, "_CHECKPOINT_METADATA")
"""Files that are written after the sums were taken."""


def write(folder: Path) -> None:
    """Store the sums of all files below `folder` in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in UNCHECKED)
    lines = [f"{_sum(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / NAME).write_text("".join(lines), encoding="utf-8")


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None. One without sums, of an earlier version, passes."""
    sums = folder / NAME
    if not sums.exists():
        return None
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
        for line in lines:
            expected, _, name = line.partition("  ")
            path = folder / name
            if not path.is_file():
                return f"{name or NAME} is missing"
            if _sum(path) != expected:
                return f"{name} does not have its checksum"
    except (OSError, UnicodeDecodeError) as error:
        return f"{error}"
    return None if lines else f"{NAME} is empty"


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
