"""MXNet's params files: every version of the record, and nothing but UserError for a damaged one."""

import struct
from pathlib import Path

import numpy as np
import pytest
from mxnet_files import MAGICS, array_bytes, list_bytes, params_bytes

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.mxnet.params_file import read_params

ARRAYS = {
    "arg:conv_weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 7,
    "arg:half": np.linspace(-2, 2, 5, dtype=np.float16),
    "aux:bn_moving_mean": np.array([1.5, -2.5]),
    "arg:pixels": np.array([[0, 255]], np.uint8),
    "arg:number": np.array([-3], np.int32),
    "arg:big": np.array([2**40, -1], np.int64),
}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "net-0000.params"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_every_version_is_read_back(tmp_path: Path, version: int) -> None:
    found = read_params(written(tmp_path, params_bytes(ARRAYS, version)))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_numpy_scalars_have_a_value_in_version_3_only(tmp_path: Path) -> None:
    scalar = np.array(2.5, np.float32)
    assert read_params(written(tmp_path, params_bytes({"s": scalar}, 3)))["s"] == 2.5
    with pytest.raises(UserError, match="without values"):
        read_params(written(tmp_path, params_bytes({"s": scalar}, 2)))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = params_bytes(ARRAYS)
    for length in range(len(content)):
        with pytest.raises(UserError, match=r"net-0000\.params"):
            read_params(written(tmp_path, content[:length]))


WEIGHT = np.ones((2, 2), np.float32)
HEAD = struct.pack("<QQQ", 0x112, 0, 1)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"PK\x03\x04" + bytes(40), "no MXNet params file"),
        (b"", "ends before"),
        (list_bytes([array_bytes(WEIGHT, storage=1)], ["a"]), "sparse"),
        (list_bytes([array_bytes(WEIGHT)], []), "1 arrays but 0 names"),
        (list_bytes([array_bytes(WEIGHT)] * 2, ["a", "a"]), "two arrays of one name"),
        (params_bytes({"a": WEIGHT}) + b"\0", "1 bytes after"),
        (params_bytes({"a": WEIGHT[:0]}), "without values"),
        (struct.pack("<QQQ", 0x112, 0, 2**62), "declares 4611686018427387904 items"),
        (HEAD + struct.pack("<IiI", MAGICS[2], 0, 2**31 - 1), "2147483647 dimensions"),
        (HEAD + struct.pack("<IiI2q3i", MAGICS[2], 0, 2, 2**40, 2**40, 1, 0, 0), "ends before"),
        (HEAD + struct.pack("<IiI2q3i", MAGICS[2], 0, 2, -4, -1, 1, 0, 0), "without values"),
        (HEAD + struct.pack("<IiI1q3i", MAGICS[2], 0, 1, 1, 1, 0, 99), "type number 99"),
        (list_bytes([array_bytes(WEIGHT)], ["a"])[:-1] + b"\xff", "no text"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read_params(written(tmp_path, content))


def test_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_params(tmp_path / "nothing.params")


def test_random_damage_gives_arrays_or_a_user_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    originals = [params_bytes(ARRAYS, version) for version in (0, 1, 2, 3)]
    for trial in range(2000):
        content = bytearray(originals[trial % 4])
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(len(content))] = rng.integers(256)
        try:
            found = read_params(written(tmp_path, bytes(content)))
        except UserError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            assert all(isinstance(array, np.ndarray) for array in found.values())
    assert min(outcomes.values()) > 200  # both happen: values and names can change unseen
