"""Free pieces of the C library's heap are held, so that a step's buffers are not looked for among them."""

import ctypes
import platform

PIECES = tuple(2**power for power in range(20, 9, -1))
"""Bytes of the blocks that free pieces are taken by: smaller ones are found at once."""
ROOMS = tuple(2**power for power in range(32, 20, -1))
"""Bytes of the blocks that keep larger room out of the pieces while they are taken."""


class _Malloc(ctypes.Structure):
    """struct mallinfo2 of glibc: bytes, but for the numbers of pieces."""

    _fields_ = (
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    )


class Pieces:
    """The heap's small free pieces, which compiling leaves by the ten thousand, held until the context ends.

    With one arena for all threads (`keep_on_cpu`) every buffer of every operation is looked for among them: a fifth of
    a step's time at demo size, and the other threads wait meanwhile. Held, they cost what the process has anyway, but
    another compilation takes its memory anew. Rooms of 2 MiB and more, for programs' buffers, stay free.
    Where nothing computes on the CPU, or without glibc 2.33 or later, nothing is held.
    """

    def __init__(self, *, on_cpu: bool) -> None:
        # Other systems have no C library to open by this name.
        library = ctypes.CDLL(None) if on_cpu and platform.libc_ver()[0] == "glibc" else None
        self._library = library if hasattr(library, "mallinfo2") else None
        self._blocks: list[int] = []
        if self._library is not None:
            self._library.mallinfo2.restype = _Malloc
            self._library.malloc.restype = ctypes.c_void_p
            self._library.malloc.argtypes = [ctypes.c_size_t]
            self._library.free.argtypes = [ctypes.c_void_p]
            self._library.sbrk.restype = ctypes.c_void_p
            self._library.sbrk.argtypes = [ctypes.c_ssize_t]

    def __enter__(self) -> "Pieces":
        return self

    def __exit__(self, *_: object) -> None:
        if self._library is not None:
            _free(self._library, self._blocks)
        self._blocks = []

    def take(self) -> int:
        """Take those that there are now, as when the programs of a step have been compiled; returns their bytes."""
        if self._library is None:
            return 0
        rooms, _ = _take(self._library, ROOMS)
        pieces, size = _take(self._library, PIECES)
        _free(self._library, rooms)
        self._blocks += pieces
        return size


def _free(library: ctypes.CDLL, blocks: list[int]) -> None:
    for block in blocks:
        library.free(block)


def _take(library: ctypes.CDLL, sizes: tuple[int, ...]) -> tuple[list[int], int]:
    """Blocks, of each size as many as there are below the heap's free end, and the bytes of all."""
    about = library.mallinfo2()
    free = about.fordblks - about.keepcost
    end = library.sbrk(0) - about.keepcost
    blocks: list[int] = []
    left = free
    for size in sizes:
        # Should the heap go on elsewhere than at its end, what is free bounds what is taken.
        while left >= size and (block := library.malloc(size)):
            if block >= end:
                library.free(block)
                break
            blocks.append(block)
            left -= size
    return blocks, free - left
