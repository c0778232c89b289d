"""Small free pieces of the heap are taken, larger room is left, and all are given back."""

import ctypes
import platform
import subprocess
import sys
from unittest import mock

import pytest

from advcloak_jax.training.pieces import Pieces

PROGRAM = """
import ctypes
from advcloak_jax.training import heap
from advcloak_jax.training.pieces import Pieces, _Malloc

heap.keep_on_cpu()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
library.mallinfo2.restype = _Malloc
between = lambda: library.mallinfo2().fordblks - library.mallinfo2().keepcost
room = library.malloc(64 << 20)
blocks = [library.malloc(4096) for _ in range(20_000)]
for block in [room, *blocks[::2]]:
    library.free(block)
before = between()
with Pieces(on_cpu=True) as pieces:
    taken, again = pieces.take(), pieces.take()
    held = between()
    in_room = library.malloc(48 << 20)
    library.free(in_room)
print(before, taken, again, held, between(), int(room <= in_room < room + (64 << 20)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pieces_are_held_and_given_back() -> None:
    program = [sys.executable, "-c", PROGRAM]
    words = subprocess.run(program, capture_output=True, text=True, check=True).stdout.split()
    before, taken, again, held, after, in_room = map(int, words)
    holes = 10_000 * 4096
    assert taken > 0.9 * holes
    assert again < taken / 4  # less than 2 MiB of every room
    assert before - held == pytest.approx(taken + again, rel=0.05)
    assert after > before - 0.01 * holes
    assert in_room  # which was no piece


def test_nothing_is_held_for_other_devices() -> None:
    with Pieces(on_cpu=False) as pieces:
        assert pieces.take() == 0


def test_no_c_library_is_opened_where_it_is_not_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", mock.Mock(side_effect=TypeError))  # as on Windows
    with Pieces(on_cpu=True) as pieces:
        assert pieces.take() == 0
