"""Files that ask to run code, or whose words make no sense, give a sentence, quickly, and run nothing."""

import gc
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from weight_files import archive, legacy, newer_tensor, state_file, storage, stored_tensor, word

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.weights.pytorch_file import MAGIC
from advcloak_jax.recognizers.weights.reader import read_weights


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@contextmanager
def at_once() -> Iterator[None]:
    """It takes less than two seconds of this thread; what other tests left on the heap is not for it to collect."""
    gc.freeze()
    start = time.thread_time()
    yield
    taken = time.thread_time() - start
    assert taken < 2


def live_pickles(sentinel: Path) -> dict[str, bytes]:
    """Pickles that, given to Python's unpickler, make the file `sentinel`."""
    command = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w').close()"
    calls: dict[str, object] = {
        "system": Call(os.system, command),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "nested": {"state_dict": {"0.weight": [1, (Call(list, [Call(os.system, command)]),)]}},
        "getattr": Call(getattr, Call(__import__, "os"), "nothing", Call(os.system, command)),
    }
    pickles = {f"{name}{p}": pickle.dumps(value, p) for name, value in calls.items() for p in (0, 2, 4, 5)}
    push = word(command)
    return pickles | {
        "posix": b"\x80\x02cposix\nsystem\n(" + push + b"tR.",
        "stack_global": b"\x80\x04" + word("os") + word("system") + b"\x93(" + push + b"tR.",
        "inst": b"(" + push + b"ios\nsystem\n.",
        "obj": b"(cos\nsystem\n" + push + b"o.",
        "popped": b"\x80\x02cos\nsystem\n(" + push + b"tR0}.",
        "memo": b"\x80\x02cos\nsystem\nq\x000h\x00(" + push + b"tR.",
        "newobj": b"\x80\x02csubprocess\nPopen\n)\x81ccommands_are_gone\nx\n0cos\nsystem\n(" + push + b"tR.",
        "reconstructor": b"\x80\x02ccopyreg\n_reconstructor\n0cos\nsystem\n(" + push + b"tR.",
        "dotted": b"\x80\x04" + word("torch.serialization") + word("os.system") + b"\x93(" + push + b"tR.",
        "from_type": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN(" + push + b"tNtR.",
    }


NEED_OTHER_PACKAGES = ("newobj", "dotted", "from_type")
NAMES = sorted(live_pickles(Path("x")))


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_that_asks_to_run_code_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    payload = live_pickles(sentinel)[name]
    file = tmp_path / "weights.pt"
    # As what was saved, and in an old file as the list of keys and as the version, too.
    empty, magic = b"\x80\x02}.", pickle.dumps(MAGIC, 2)
    for data in (archive(payload), legacy(payload), legacy(empty, payload), magic + payload):
        file.write_bytes(data)
        with pytest.raises(UserError, match="is refused: "):
            read_weights(file)
    assert not sentinel.exists()
    if name not in NEED_OTHER_PACKAGES:  # the payload is not a dud
        pickle.loads(payload)
        assert sentinel.exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"\x80\x02ccopyreg\n_reconstructor\n(c__main__\nA\nc__builtin__\nobject\nNtR.", "copyreg._reconstructor"),
        (b"\x80\x02ctorch.hub\nload\n(" + word("someone/repository") + b"tR.", "torch.hub.load"),
        (b"\x80\x02ctorch\nload\n(" + word("other.pt") + b"tR.", "'torch.load'"),
        (b"\x80\x02c__main__\nf\n)R.", "__main__.f"),
        (b"\x80\x02cbuiltins\ncompile\n.", "builtins.compile"),
        (b"\x80\x02cfunctools\npartial\n.", "functools.partial"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02\x83\x01\x01.", "EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        (b"\x80\x04c__main__\nA\n)}\x92.", "NEWOBJ_EX"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"Psomething\n.", "PERSID"),
    ],
)
def test_refused_programs_are_named(program: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(archive(program))
    with pytest.raises(UserError, match="is refused: ") as caught:
        read_weights(tmp_path / "weights.pt")
    assert words in str(caught.value)


def test_the_written_file_is_read_where_nothing_is_wrong_with_it(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    (tmp_path / "weights.pt").write_bytes(state_file(stored_tensor(), values.tobytes()))
    np.testing.assert_array_equal(read_weights(tmp_path / "weights.pt")["0.weight"], values.reshape(2, 3))
    (tmp_path / "weights.pt").write_bytes(state_file(newer_tensor("uint32"), values.tobytes()))
    assert read_weights(tmp_path / "weights.pt")["0.weight"].dtype == np.uint32


@pytest.mark.parametrize(
    "data",
    [
        state_file(stored_tensor(size=(3, 3))),
        state_file(stored_tensor(size=(4, 3), stride=(0, 1))),
        state_file(stored_tensor(offset=1)),
        state_file(stored_tensor(stride=(4, 1))),
        state_file(stored_tensor(stride=(-3, 1), offset=3)),
        state_file(stored_tensor(offset=-1)),
        state_file(stored_tensor(size=(-2, -3))),
        state_file(stored_tensor(size=(2**40, 2**40), stride=(0, 0))),
        state_file(stored_tensor(size=(2**63, 2), stride=(1, 2**64 - 1))),
        state_file(stored_tensor(size=(1 << 90000,), stride=(1,))),
        state_file(stored_tensor(size=(0, 2**39, 2**39), stride=(1, 1, 1))),
        state_file(stored_tensor(size=(1,) * 65, stride=(1,) * 65)),
        state_file(stored_tensor(size=(2.0, 3.0))),
        state_file(stored_tensor(size=[2, 3])),
        state_file(stored_tensor(size=(True, True))),
        state_file(stored_tensor(size=(2, 3, 1))),
        state_file(stored_tensor(run=storage(count=2**60))),
        state_file(stored_tensor(run=storage(count=7))),
        state_file(stored_tensor(run=storage(count=-6))),
        state_file(stored_tensor(run=storage(key="../data.pkl"))),
        state_file(stored_tensor(run=storage(kind=b"ctorch\nQInt8Storage\n"))),
        state_file(stored_tensor(run=storage(kind=b"cevil\nFloatStorage\n"))),
        state_file(stored_tensor(run=b"N")),
        state_file(newer_tensor("object")),
        state_file(newer_tensor("O")),
        state_file(newer_tensor("f4,O")),
        state_file(stored_tensor(), extra=b"]b"),  # attributes of a dict that are none
        state_file(stored_tensor(), extra=b"}}b"),
        state_file(stored_tensor(), extra=word("text") + b"b"),
        state_file(stored_tensor(), bytes(20)),
        state_file(b"N"),
        archive(b"\x80\x02}r\xff\xff\xff\x7fj\xff\xff\xff\x7fj\x00\x00\x00\x01."),  # a memo far away, and an empty one
        archive(b"\x80\x02\x8b\xff\xff\xff\x7f1234."),  # a number of 2 GiB
        archive(b"\x80\x02X\xff\xff\xff\xffshort."),
        archive(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f."),
        archive(b"\x80\x02" + b"(" * 100_000 + b"t" * 99_999 + b"."),
        archive(b"\x80\x02R."),
        archive(b"\x80\x02]}}s."),  # a list as a dict
        archive(b"\x80\x02}]Ns."),  # a list as a key
        archive(b"\x80\x02(" + b"q\x00h\x00" * 10 + b"."),
        archive(b"\x80\x02N"),
        archive(b"\x80\x02."),
        archive(b""),
        archive(b"\x80\x02}q\x09" + word("again") + b"h\x09s."),  # a dict within itself
    ],
)
def test_a_program_that_makes_no_sense_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(data)
    with at_once(), pytest.raises(UserError):
        read_weights(tmp_path / "weights.pt")


# The object of memo 9 (`word` uses lower ones) under twelve names.
MANY = b"".join(word(letter) + b"h\x09" for letter in "abcdefghijkl")


def nested(first: bytes, more: bytes, times: int) -> bytes:
    """A pickle whose objects each hold the one before, perhaps more than once: small in the file, huge when walked."""
    return b"\x80\x02" + first + more * times + b"."


@pytest.mark.parametrize(
    "program",
    [
        nested(b")", b"2\x86", 60),
        b"\x80\x02}" + nested(b")", b"2\x86", 60)[2:-1] + b"Ns.",  # a key that takes for ever to hash
        nested(b"}", b"q\x090}(" + MANY + b"u", 14),
        nested(b"cevil\nModule\n)\x81", b"q\x090cevil\nModule\n)\x81}(" + MANY + b"ub", 14),
        b"\x80\x02cevil\nModule\n)\x81q\x09}(" + word("a") + b"h\x09" + word("w") + stored_tensor() + b"ub.",
        nested(b"}", b"q\x090}" + word("a") + b"h\x09s", 2000),
    ],
)
def test_what_would_take_for_ever_is_refused_at_once(program: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(archive(program))
    with at_once(), pytest.raises(UserError):
        read_weights(tmp_path / "weights.pt")


def test_many_copies_of_one_storage_are_refused(tmp_path: Path) -> None:
    count = 100_000
    one = stored_tensor(size=(count,), stride=(1,), run=storage(count=count))
    program = b"\x80\x02}(" + b"".join(word(f"{n}.weight") + one for n in range(40)) + b"u."
    (tmp_path / "weights.pt").write_bytes(archive(program, {"data/0": bytes(4 * count)}))
    with pytest.raises(UserError, match="16,000,000 bytes"):
        read_weights(tmp_path / "weights.pt")


def test_a_storage_of_an_old_file_that_claims_more_than_there_is(tmp_path: Path) -> None:
    run = storage()[:-2] + b"NtQ"
    main = b"\x80\x02}" + word("0.weight") + stored_tensor(run=run) + b"s."
    keys = pickle.dumps(["0"], 2)
    file = tmp_path / "weights.pt"
    file.write_bytes(legacy(main, keys) + struct.pack("<q", 6) + bytes(24))
    assert read_weights(file)["0.weight"].shape == (2, 3)
    for tail in (b"", b"\x06", struct.pack("<q", 7) + bytes(24), struct.pack("<q", -1), struct.pack("<q", 2**62)):
        file.write_bytes(legacy(main, keys) + tail)
        with pytest.raises(UserError, match="damaged"):
            read_weights(file)
    file.write_bytes(legacy(main))
    with pytest.raises(UserError, match="damaged"):
        read_weights(file)


def test_records_that_overlap_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as opened:
        opened.writestr("archive/data.pkl", b"\x80\x02}.")
        opened.writestr("archive/data/0", bytes(10_000))
        opened.filelist += [opened.filelist[-1]] * 3  # the directory names the same bytes four times
    with pytest.raises(UserError, match="of its zip archive overlap"):
        read_weights(tmp_path / "weights.pt")


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    program = b"\x80\x02}" + word("0.weight") + stored_tensor() + b"s."
    data = archive(program, {"data/0": bytes(24)}, zipfile.ZIP_DEFLATED)
    (tmp_path / "weights.pt").write_bytes(data)
    with pytest.raises(UserError, match="compressed, as PyTorch's files never are"):
        read_weights(tmp_path / "weights.pt")
