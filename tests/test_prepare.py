"""Preparation: the set equals its source, damage is noticed, pictures stay on disk."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prepared_sets import SIZE, flip_a_byte, load, settings, write_people
from rec_files import encoded, insightface, smooth

from advcloak_jax.config import Encoding, PrepareConfig
from advcloak_jax.data import manifest, records
from advcloak_jax.data.faceset import FaceSet, concatenate
from advcloak_jax.errors import UserError
from advcloak_jax.jobs import prepare

tfds = pytest.importorskip("tensorflow_datasets")

KINDS = ("jpeg", "raw")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_people(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_set_equals_its_folder(tmp_path: Path, people: Path, kind: str) -> None:
    out = prepare.run(settings(people, tmp_path / "sets" / "people", kind))
    want, got = load(f"folder:{people}"), load(f"tfds:{out}")
    assert got.names == want.names
    np.testing.assert_array_equal(got.identity, want.identity)
    # JPEG files of the right size keep their bytes; the PNG, the grey and the larger one are encoded once more.
    again = [] if kind == "raw" else [i for i in range(21) if _of_another_kind(people, i)]
    same = np.setdiff1d(np.arange(21), again)
    np.testing.assert_array_equal(got.images[same], want.images[same])
    assert np.abs(got.images[:].astype(int) - want.images).max() <= 12
    report = json.loads((out / "report.json").read_text())
    assert (report["images"], report["identities"], report["resized"], report["bad"]) == (21, 3, 1, [])


def _of_another_kind(people: Path, place: int) -> bool:
    return sorted(people.glob("*/*"))[place].stem in ("05", "07", "08")


@pytest.mark.parametrize("kind", KINDS)
def test_plain_tfds_reads_it(tmp_path: Path, people: Path, kind: str) -> None:
    out = prepare.run(settings(people, tmp_path / "9 Faces!", kind))
    builder = tfds.builder_from_directory(out)
    assert builder.info.splits["train"].num_examples == 21
    assert builder.name == "faces_9_faces_"
    data = builder.as_data_source(split="train")
    got = load(f"tfds:{out}")
    for place in (0, 5, 20):
        np.testing.assert_array_equal(data[place]["image"], got.images[place])
        assert data[place]["identity"].decode() == got.names[got.identity[place]].split("/")[1]
    # A slice is asked of TFDS, and gives the same pictures.
    np.testing.assert_array_equal(load(f"tfds:{out}:train[:5]").images, got.images[:5])


def test_recordio_becomes_the_same_set(tmp_path: Path) -> None:
    jpegs = [[encoded(smooth(10 * label + i, SIZE)) for i in range(3)] for label in range(4)]
    insightface(tmp_path / "casia", jpegs)
    config = PrepareConfig(
        source=f"recordio:{tmp_path / 'casia'}", out=str(tmp_path / "set" / "casia"), image_size=SIZE, shard_images=5
    )
    got, want = load(f"tfds:{prepare.run(config)}"), load(f"recordio:{tmp_path / 'casia'}")
    assert got.names == want.names
    np.testing.assert_array_equal(got.identity, want.identity)
    np.testing.assert_array_equal(got.images[:], want.images)


def test_a_bad_image_is_left_out_and_reported(tmp_path: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (people / "person_1" / "01.jpg").write_bytes(b"damaged")
    (people / "person_1" / "notes.txt").write_text("x")
    (people / "person_3").mkdir()
    (people / "person_3" / "a.jpg").write_bytes(encoded(smooth(0, SIZE // 4)))
    out = prepare.run(settings(people, tmp_path / "set"))
    report = json.loads((out / "report.json").read_text())
    assert (report["images"], report["identities"]) == (20, 3)
    reasons = {Path(entry["where"]).name: entry["reason"] for entry in report["bad"]}
    assert reasons["01.jpg"] == "not a JPEG, PNG, BMP or WebP image"
    assert "suffix" in reasons["notes.txt"]
    assert "too small" in reasons["a.jpg"]
    assert report["identities_without_images"] == 1
    text = (out / "report.txt").read_text()
    assert f"{people}/person_1/01.jpg: not a JPEG" in text
    assert "3 unusable, left out:" in capsys.readouterr().err
    assert load(f"tfds:{out}").names == ("set/person_0", "set/person_1", "set/person_2")
    with pytest.raises(UserError, match=r"notes\.txt is unusable .* --on-bad-image skip"):
        prepare.run(settings(people, tmp_path / "strict", on_bad_image="refuse"))
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_records_fields_are_in_one_order(kind: Encoding) -> None:
    """Of several maps with the same values protobuf may write the fields either way round, but not here."""
    pixels = smooth(0, SIZE)
    record = records.serialise(records.features(kind, SIZE), encoded(pixels) if kind == "jpeg" else pixels, "somebody")
    assert 0 <= record.find(b"identity") < record.find(b"image")


@pytest.mark.parametrize("file", ["*00002-of*", "identity.npy", "names.json"])
def test_damage_is_noticed_on_opening(tmp_path: Path, people: Path, file: str) -> None:
    out = prepare.run(settings(people, tmp_path / "set"))
    load(f"tfds:{out}")
    load(f"tfds:{out}")
    (path,) = out.glob(file)
    flip_a_byte(path)
    with pytest.raises(UserError, match=f"{path.name} is damaged"):
        load(f"tfds:{out}")
    path.unlink()
    with pytest.raises(UserError, match=rf"Cannot read .*{path.name}"):
        load(f"tfds:{out}")


def test_files_that_passed_are_not_read_again(tmp_path: Path, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = prepare.run(settings(people, tmp_path / "set"))
    read: list[str] = []
    real = manifest.crc32
    monkeypatch.setattr(manifest, "crc32", lambda path: read.append(path.name) or real(path))
    load(f"tfds:{out}")
    assert len(read) == 8  # 6 shards and two more
    read.clear()
    load(f"tfds:{out}")
    assert read == []
    (out / "names.json").touch()
    load(f"tfds:{out}")
    assert read == ["names.json"]


def test_another_process_imports_what_reads_pictures_before_its_threads_read(tmp_path: Path, people: Path) -> None:
    """Two threads that both imported it have waited for each other for ever."""
    faces = load(f"tfds:{prepare.run(settings(people, tmp_path / 'set'))}")
    (tmp_path / "images").write_bytes(pickle.dumps(faces.images))
    program = """
import pickle, sys
opened = pickle.load(sys.stdin.buffer)
before = set(sys.modules)
opened[:]
print(*sorted(name for name in set(sys.modules) - before if name.startswith("tensorflow_datasets")))
"""
    with (tmp_path / "images").open("rb") as pickled:
        ran = subprocess.run([sys.executable, "-c", program], stdin=pickled, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


def test_pictures_stay_on_disk_until_they_are_asked_for(tmp_path: Path, people: Path) -> None:
    faces = load(f"tfds:{prepare.run(settings(people, tmp_path / 'set'))}")
    assert not isinstance(faces.images, np.ndarray)
    assert (faces.images.shape, faces.images.dtype, faces.images.ndim) == ((21, SIZE, SIZE, 3), np.uint8, 4)
    everything = faces.images[:]
    grid = np.array([[3, 0], [20, -1], [7, 7]])
    np.testing.assert_array_equal(faces.images[grid], everything[grid])
    np.testing.assert_array_equal(faces.images[4], everything[4])
    np.testing.assert_array_equal(faces.images[faces.identity == 1], everything[faces.identity == 1])
    assert faces.images[np.zeros(0, int)].shape == (0, SIZE, SIZE, 3)
    with pytest.raises(IndexError):
        faces.images[[0, 21]]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(faces.images))[2:9], everything[2:9])
    both = concatenate([faces, FaceSet(everything[::-1], faces.identity, ("a", "b", "c"))])
    np.testing.assert_array_equal(both.images[[0, 21, 20, 41]], everything[[0, 20, 20, 0]])
    assert not isinstance(both.images, np.ndarray)


def test_another_size_is_resized_or_refused(tmp_path: Path, people: Path) -> None:
    out = prepare.run(settings(people, tmp_path / "set", "raw"))
    assert load(f"tfds:{out}", 48).images[:2].shape == (2, 48, 48, 3)
    with pytest.raises(UserError, match="32x32 is too small for 96x96; prepare it again"):
        load(f"tfds:{out}", 96)


@pytest.mark.parametrize("inside", [".", "set", "deeper/set"])
def test_a_set_inside_its_source_is_refused(people: Path, inside: str) -> None:
    before = sorted(people.rglob("*"))
    with pytest.raises(UserError, match="is inside the source"):
        prepare.run(settings(people, people / inside, "raw"))
    assert sorted(people.rglob("*")) == before


def test_no_tensorflow_anywhere(tmp_path: Path, people: Path) -> None:
    script = (
        "import sys\n"
        "from advcloak_jax.data import sources\n"
        "from advcloak_jax import commands\n"
        "source, out = sys.argv[1:]\n"
        f"commands.prepare([source, out, '--image-size', '{SIZE}'])\n"
        f"faces = sources.load([f'tfds:{{out}}'], image_size={SIZE}, on_bad_image='refuse', cache=None)\n"
        "print(len(faces.images[:]), 'tensorflow' in sys.modules)\n"
    )
    arguments = [sys.executable, "-c", script, f"folder:{people}", str(tmp_path / "set")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["21", "False"]
