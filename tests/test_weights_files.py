"""Published files give the tensors that were saved; damaged and wrong files give a sentence."""

import contextlib
import io
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from golden.fill import tensor
from weight_files import archive, legacy, safetensors_bytes, storage, stored_tensor, word

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.weights.pytorch_file import MAGIC
from advcloak_jax.recognizers.weights.reader import read_weights

FILES = Path(__file__).parent / "golden" / "weight_files"
SHARED = Path(os.environ.get("ADVCLOAK_SHARED", Path(__file__).parents[2] / "shared"))
# Those of golden/make_weight_files.py.
SHAPES = {
    "0.weight": (4, 3, 3, 3),
    "1.weight": (4,),
    "1.bias": (4,),
    "1.running_mean": (4,),
    "1.running_var": (4,),
    "2.weight": (4,),
    "3.weight": (5, 4),
    "3.bias": (5,),
}


def expect_network(state: dict[str, np.ndarray]) -> None:
    counter = state.pop("1.num_batches_tracked", np.int64(7))
    assert counter == 7
    assert list(state) == list(SHAPES)
    for name, shape in SHAPES.items():
        assert state[name].dtype == np.float32
        np.testing.assert_array_equal(state[name], tensor(name, shape))


@pytest.mark.parametrize("name", ["zip.pt", "legacy.ckpt", "checkpoint.pth.tar", "module.pt", "script.pt"])
def test_every_form_of_file_gives_what_was_saved(name: str) -> None:
    expect_network(read_weights(FILES / name))


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    data = (FILES / "legacy.ckpt").read_bytes()
    (tmp_path / "weights").write_bytes(data)
    expect_network(read_weights(tmp_path / "weights"))
    magic = pickle.dumps(MAGIC, 2)
    (tmp_path / "weights").write_bytes(data.replace(magic, pickle.dumps(MAGIC, 4)))  # torch.save(pickle_protocol=4)
    expect_network(read_weights(tmp_path / "weights"))


@pytest.mark.parametrize("name", ["views.pt", "views_legacy.pt"])
def test_strided_views_of_one_storage(name: str) -> None:
    state = read_weights(FILES / name)
    shared = tensor("shared", (6, 4))
    expected = {
        "transposed.weight": shared.T,
        "part.weight": shared[1:5:2, 1:],
        "last.weight": shared[:, 3],
        "tied.weight": shared,
        "tied.again": shared,
        "empty.weight": np.zeros((0, 3), np.float32),
    }
    assert list(state) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key], value)
        assert state[key].flags.c_contiguous


def test_narrow_and_wide_floats_become_float32_and_integers_stay() -> None:
    state = read_weights(FILES / "halves.pt")
    whole = tensor("whole", (2, 3)) * np.float32(100)
    assert {state[name].dtype for name in ("float16", "bfloat16", "float64")} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(state["float16"], whole.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(state["bfloat16"], whole.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(state["float64"], whole)
    np.testing.assert_array_equal(state["int64"], whole.astype(np.int64))
    assert state["int64"].dtype == np.int64
    np.testing.assert_array_equal(state["bool"], 1)


def test_an_old_file_names_the_classes_of_a_whole_module(tmp_path: Path) -> None:
    kind = b"(" + word("module") + b"cmodels\nNetwork\n" + word("models.py") + word("class Network: ...") + b"tQ"
    parameters = word("_parameters") + b"}" + word("weight") + stored_tensor() + b"s"
    buffers = word("_buffers") + b"}" + word("gone") + stored_tensor() + b"s"
    hidden = word("_non_persistent_buffers_set") + b"c__builtin__\nset\n(](" + word("gone") + b"etR"
    attributes = b"}(" + parameters + word("_modules") + b"}" + buffers + hidden + b"ub"
    (tmp_path / "weights.pt").write_bytes(
        legacy(b"\x80\x02" + kind + b")\x81" + attributes + b".", pickle.dumps(["0"], 2))
        + struct.pack("<q6f", 6, *range(6))
    )
    state = read_weights(tmp_path / "weights.pt")
    assert list(state) == ["weight"]
    np.testing.assert_array_equal(state["weight"], [[0, 1, 2], [3, 4, 5]])


def test_an_old_file_has_views_of_storages(tmp_path: Path) -> None:
    part = stored_tensor(size=(2,), stride=(2,), offset=1, run=storage(view=("1", 2, 4)))
    main = legacy(b"\x80\x02}" + word("weight") + part + b"s.", pickle.dumps(["0"], 2))
    (tmp_path / "weights.pt").write_bytes(main + struct.pack("<q6f", 6, *range(6)))
    np.testing.assert_array_equal(read_weights(tmp_path / "weights.pt")["weight"], [3, 5])
    beyond = stored_tensor(size=(2,), stride=(2,), offset=1, run=storage(view=("1", 3, 4)))
    (tmp_path / "weights.pt").write_bytes(legacy(b"\x80\x02}" + word("weight") + beyond + b"s.") + bytes(32))
    with pytest.raises(UserError, match="longer than its storage"):
        read_weights(tmp_path / "weights.pt")


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    program = b"\x80\x02}" + word("weight") + stored_tensor() + b"s."
    old = legacy(program, pickle.dumps(["0"], 2), little_endian=False) + struct.pack("<q", 6) + bytes(24)
    for data in (archive(program, {"data/0": bytes(24), "byteorder": b"big"}), old):
        (tmp_path / "weights.pt").write_bytes(data)
        with pytest.raises(UserError, match="big-endian"):
            read_weights(tmp_path / "weights.pt")


def test_other_tensors_in_a_checkpoint_are_no_state_dicts(tmp_path: Path) -> None:
    scalar = stored_tensor(size=(), stride=())
    few = b"}(" + word("mean") + stored_tensor() + word("a") + word(1) + word("b") + word(2) + b"u"
    numbers = b"}" + word("loss") + scalar + b"s"
    parts = {
        "net": b"}" + word("0.weight") + stored_tensor() + b"s",
        "centre": stored_tensor(),
        "spread": stored_tensor(),
        "rest": b"}(" + word("scores") + numbers + word("settings") + few + b"u",
        "more": stored_tensor(),
    }
    program = b"\x80\x02}(" + b"".join(word(name) + value for name, value in parts.items()) + b"u."
    (tmp_path / "weights.pt").write_bytes(archive(program, {"data/0": bytes(24)}))
    assert list(read_weights(tmp_path / "weights.pt")) == ["0.weight"]


def test_several_state_dicts_need_a_key() -> None:
    with pytest.raises(UserError, match=r"'model' \(8 tensors\), 'ema' \(9 tensors\).*--key"):
        read_weights(FILES / "two.pt")
    expect_network(read_weights(FILES / "two.pt", key="model"))
    assert len(read_weights(FILES / "two.pt", key="ema")) == 9
    with pytest.raises(UserError, match="no tensors under --key teacher; it has 'model', 'ema'"):
        read_weights(FILES / "two.pt", key="teacher")


def test_a_prefix_goes_only_when_every_tensor_has_it() -> None:
    state = read_weights(FILES / "headed.ckpt")
    assert {"model.0.weight", "head.kernel"} <= set(state)
    expect_network(read_weights(FILES / "headed.ckpt", key="model"))
    expect_network(read_weights(FILES / "headed.ckpt", key="state_dict.model"))


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays = {f"module.{name}": tensor(name, shape) for name, shape in SHAPES.items()}
    safetensors.numpy.save_file(arrays, path)
    state = read_weights(path)
    expect_network({name: state[name] for name in SHAPES})
    whole = tensor("whole", (2, 3))
    halves = {"a": whole.astype(np.float16), "b": whole.astype(ml_dtypes.bfloat16), "c": whole.astype(np.float64)}
    path.write_bytes(safetensors.numpy.save({"a": halves["a"], "c": halves["c"]}))
    assert {name: value.dtype.name for name, value in read_weights(path).items()} == {"a": "float32", "c": "float32"}
    path.write_bytes(safetensors_bytes({"b": ("BF16", (2, 3), halves["b"].tobytes())}))
    np.testing.assert_array_equal(read_weights(path)["b"], halves["b"].astype(np.float32))
    path.write_bytes(safetensors_bytes({"b": ("F8_E4M3", (6,), bytes(6))}))
    with pytest.raises(UserError, match="'b' as 'F8_E4M3'"):
        read_weights(path)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mobilefacenet_casia/068.ckpt", 333),
        ("mobilefacenet_imagenet_norm/mobilefacenet.pt", 307),
        ("detectors/mtcnn_onet.pt", 21),
    ],
)
def test_files_that_people_published(name: str, count: int) -> None:
    if not (SHARED / "models" / name).exists():
        pytest.skip(f"no {name} in {SHARED}/models")
    state = read_weights(SHARED / "models" / name)
    assert len(state) == count
    assert all(np.isfinite(value).all() for value in state.values())
    assert all(0 < np.abs(value).mean() < 10 for key, value in state.items() if key.endswith("weight"))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.pth", b"", "is empty"),
        ("a.pth", b"\n <!DOCTYPE html><html>Sign in</html>", "web page"),
        ("a.safetensors", b"<html>", "web page"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.pth.tar", bytes(257) + b"ustar" + bytes(600), "unpack it"),
        ("a.pth", b"\x1f\x8b" + bytes(50), "unpack it"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        ("a.pth", pickle.dumps({"a": 1}, 4), "not one that torch.save wrote"),
        ("a.pth", b"plain words", "no file of weights"),
        ("a.safetensors", b"plain words, not a header", "no whole safetensors"),
        ("a-0000.params", b"anything", "NAME-symbol.json"),
        ("a-symbol.json", b"{}", "NAME-0000.params"),
        ("a.onnx", b"\x08\x07", "--targets"),
    ],
)
def test_other_kinds_of_file_are_told(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_weights(tmp_path / name)
    assert words in str(caught.value)
    assert name in str(caught.value)


def test_zip_archives_of_other_things(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="arrays of NumPy"):
        read_weights(tmp_path / "arrays.npz")
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as file:
        file.write(FILES / "zip.pt", "zip.pt")
    with pytest.raises(UserError, match="unzip it"):
        read_weights(tmp_path / "zipped.zip")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_weights(path)


def test_a_script_without_tensors_tells_how_to_export(tmp_path: Path) -> None:
    program = b"\x80\x02c__torch__\nNet\n)\x81}" + word("training") + b"\x89sb."
    (tmp_path / "frozen.pt").write_bytes(archive(program, {"constants.pkl": b"\x80\x02)."}))
    with pytest.raises(UserError, match=r"torch\.jit\.load\(file\)\.state_dict\(\)"):
        read_weights(tmp_path / "frozen.pt")


def mutations(data: bytes, count: int, rng: np.random.Generator) -> list[bytes]:
    """Copies cut short, and copies with a few bytes set at random."""
    copies = []
    for i in range(count):
        copy = bytearray(data)
        if i % 3 == 0:
            del copy[int(rng.integers(len(copy))) :]
        else:
            for place in rng.integers(len(copy), size=rng.integers(1, 6)):
                copy[place] = rng.integers(256)
        copies.append(bytes(copy))
    return copies


@pytest.mark.parametrize("name", [*sorted(path.name for path in FILES.iterdir()), "a.safetensors"])
def test_damage_gives_a_sentence_or_tensors_and_nothing_else(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    rng = np.random.default_rng(sum(name.encode()))
    if name == "a.safetensors":
        whole = safetensors.numpy.save({key: tensor(key, shape) for key, shape in SHAPES.items()})
    else:
        whole = (FILES / name).read_bytes()
    damaged = mutations(whole, 30, rng)
    if whole[:2] == b"PK":  # the checksums stop most of these, so damage the pickle below them, too
        with zipfile.ZipFile(io.BytesIO(whole)) as opened:
            records = {key.partition("/")[2]: opened.read(key) for key in opened.namelist()}
        program = records.pop("data.pkl")
        damaged += [archive(copy, records) for copy in mutations(program, 30, rng)]
    for data in damaged:
        file.write_bytes(data)
        start = time.monotonic()
        with contextlib.suppress(UserError):
            state = read_weights(file)
            assert all(isinstance(key, str) and isinstance(value, np.ndarray) for key, value in state.items())
        assert time.monotonic() - start < 2
