"""Faces from a folder that holds one sub-folder per identity."""

import hashlib
import os
from pathlib import Path

import numpy as np

from advcloak_jax.config import BadImage
from advcloak_jax.data.decode import Progress, read_bytes
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.listing import Listing, load_listing
from advcloak_jax.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "icon\r"})


def load_folder(root: Path, *, image_size: int, on_bad_image: BadImage, progress: Progress | None = None) -> FaceSet:
    """Read root/IDENTITY/IMAGE; the identity's name is its folder's name.

    Identities and images come in the order of their names' characters, whatever the file system's order. Hidden
    files, and files beside the identities' folders that are no images (lists, licences), are ignored; anything else
    that is not a usable image is bad: under "refuse" it raises UserError, under "skip" it is left out and listed by a
    logged warning. Other sizes: see decode.fit. Identities left without an image are left out, with a warning.
    Raises UserError for a missing, empty, unreadable or flat folder too.
    """
    listing = list_folder(root)
    return load_listing(listing, image_size=image_size, on_bad_image=on_bad_image, progress=progress)


def list_folder(root: Path) -> Listing:
    """The pictures of root/IDENTITY/IMAGE in the order that `load_folder` tells. Raises UserError as it does."""
    identities, bad = _list_identities(root)
    files: list[Path] = []
    owner: list[int] = []
    for number, folder in enumerate(identities):
        images, more_bad = _list_images(folder)
        bad += more_bad
        files += images
        owner += [number] * len(images)
    if not files and not bad:
        raise UserError(f"{root} holds no images: it must hold one sub-folder of images per identity.")
    return Listing(
        label=f"folder:{printable(str(root))}",
        owner=np.array(owner, np.int32),
        names=tuple(printable(folder.name) for folder in identities),
        encoded=lambda item: read_bytes(files[item]),
        where=lambda item: printable(str(files[item])),
        bad=tuple((printable(where), reason) for where, reason in bad),
        fingerprint=_fingerprint(root, files),
    )


def _fingerprint(root: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        try:
            state = file.stat()
            facts = f"{state.st_size} {state.st_mtime_ns}"
        except OSError:
            facts = "unreadable"
        digest.update(f"{printable(str(file.relative_to(root)))} {facts}\n".encode())
    return digest.hexdigest()


def printable(name: str) -> str:
    """A file name as text that can be written anywhere: bytes that are not UTF-8 become backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _list_identities(root: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    if not os.path.exists(root):
        raise UserError(f"The folder {root} does not exist or cannot be reached; check the path after --data folder:.")
    if not os.path.isdir(root):
        raise UserError(f"{root} is not a folder; --data folder: wants a folder with one sub-folder per identity.")
    entries = _visible(root)
    if not entries:
        raise UserError(f"The folder {root} is empty: it must hold one sub-folder of images per identity.")
    folders = [entry for entry in entries if os.path.isdir(entry)]
    stray = [entry for entry in entries if not os.path.isdir(entry) and entry.suffix.lower() in SUFFIXES]
    if not folders:
        what = f"{len(stray)} image(s)" if stray else f"{len(entries)} file(s)"
        raise UserError(f"{root} holds {what} but no sub-folders: put each identity's images into a sub-folder.")
    return folders, [(str(path), "it lies in no identity's sub-folder") for path in stray]


def _list_images(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    images: list[Path] = []
    bad: list[tuple[str, str]] = []
    for entry in _visible(folder):
        if os.path.isdir(entry):
            bad.append((str(entry), "it is a folder inside an identity's folder, where only images belong"))
        elif entry.suffix.lower() in SUFFIXES:
            images.append(entry)
        else:
            bad.append((str(entry), "its suffix is none of " + ", ".join(sorted(SUFFIXES))))
    return images, bad


def _visible(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise UserError(f"Cannot read the folder {printable(str(folder))}: {error.strerror}.") from error
    return [folder / name for name in sorted(names) if not name.startswith(".") and name.lower() not in _LITTER]
