"""TFDS source: a really prepared array_record set and TFDS's own mock, both without TensorFlow."""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.tfds_source import TfdsSpec, load_tfds, parse_spec
from advcloak_jax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")

SIZE = 32
Examples = list[dict[str, Any]]


def pixels(number: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG") -> io.BytesIO:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    stream.seek(0)
    return stream


def prepare(root: Path, features: dict, splits: dict[str, Examples], file_format: str = "array_record") -> Path:
    """Write a set named tiny_faces with TFDS itself; the folder of its version."""

    class TinyFaces(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, download: Any) -> dict[str, Iterator]:
            return {name: enumerate(examples) for name, examples in splits.items()}

        def _generate_examples(self) -> None:
            raise NotImplementedError

    builder = TinyFaces(data_dir=root, file_format=file_format)
    builder.download_and_prepare()
    return Path(builder.data_dir)


def load(folder: Path | str, rest: str = "", policy: str = "refuse", size: int = SIZE) -> FaceSet:
    return load_tfds(parse_spec(f"{folder}{rest}"), image_size=size, on_bad_image=policy)


TEXT: dict[str, Callable] = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "identity": tfds.features.Text(),
}


def people(numbers: range) -> Examples:
    return [{"image": encoded(pixels(i)), "identity": f"p{i % 3}"} for i in numbers]


def by_person(faces: FaceSet) -> dict[str, set[bytes]]:
    return {name: {faces.images[k].tobytes() for k in faces.images_of(i)} for i, name in enumerate(faces.names)}


def expected(numbers: range) -> dict[str, set[bytes]]:
    return {f"p{p}": {pixels(i).tobytes() for i in numbers if i % 3 == p} for p in range(3)}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return prepare(tmp_path, TEXT, {"train": people(range(9)), "test": people(range(9, 15))})


def test_prepared_set_is_read_exactly(tiny: Path) -> None:
    faces = load(tiny)
    assert faces.names == ("p0", "p1", "p2")
    assert faces.identity.dtype == np.int32
    assert by_person(faces) == expected(range(15))
    assert "tensorflow" not in sys.modules


def test_splits_and_slices(tiny: Path) -> None:
    assert by_person(load(tiny, ":test")) == expected(range(9, 15))
    assert by_person(load(tiny, ":test+train")) == expected(range(15))
    assert len(load(tiny, ":train[:5]")) == 5
    assert len(load(tiny, ":train[:5]:image:identity")) == 5


def test_registered_name_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, TEXT, {"train": people(range(6))})
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    assert by_person(load("tiny_faces")) == expected(range(6))
    assert by_person(load("tiny_faces:1.0.0:train")) == expected(range(6))


def test_class_labels_integers_and_raw_pixels(tmp_path: Path) -> None:
    raw = tfds.features.Tensor(shape=(SIZE, SIZE, 3), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    labels = tfds.features.ClassLabel(names=["zoe", "ann"])
    folder = prepare(
        tmp_path / "a",
        {"face": raw, "label": labels, "age": np.int64},
        {"train": [{"face": pixels(i), "label": i % 2, "age": i} for i in range(4)]},
    )
    faces = load(folder)
    assert by_person(faces) == {
        "ann": {pixels(1).tobytes(), pixels(3).tobytes()},
        "zoe": {pixels(0).tobytes(), pixels(2).tobytes()},
    }
    nested = prepare(
        tmp_path / "b",
        {"image": raw, "identity": {"Identity_No": np.int64}, "label": labels},
        {"train": [{"image": pixels(i), "identity": {"Identity_No": 70 + i}, "label": 0} for i in range(2)]},
    )
    assert load(nested).names == ("70", "71")
    assert load(nested, ":train:image:label").names == ("zoe",)


def test_grey_alpha_and_16_bit(tmp_path: Path) -> None:
    grey = pixels(0)[..., 0]
    image = tfds.features.Image
    deep = tfds.features.Tensor(shape=(SIZE, SIZE, 1), dtype=np.uint16)
    clear = np.dstack([pixels(1), np.zeros_like(grey)])
    cases = [
        (image(shape=(None, None, 1)), encoded(grey), grey[..., None]),
        (image(shape=(None, None, 3)), encoded(grey, "JPEG"), None),
        (deep, grey[..., None].astype(np.uint16) * 257, grey[..., None]),
        (image(shape=(None, None, 4)), encoded(clear), np.full((1, 1, 1), 255)),
    ]
    for number, (feature, value, want) in enumerate(cases):
        features = {"image": feature, "identity": tfds.features.Text()}
        folder = prepare(tmp_path / f"{number}", features, {"train": [{"image": value, "identity": "p"}]})
        got = load(folder).images[0]
        if want is None:
            assert (got == got[..., :1]).all()
        else:
            np.testing.assert_array_equal(got, np.broadcast_to(want, got.shape))


def test_bad_records_are_refused_or_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    examples = people(range(6))
    examples[1]["image"] = io.BytesIO(b"no image at all")
    whole = encoded(pixels(2)).getvalue()
    examples[2]["image"] = io.BytesIO(whole[: len(whole) // 2])
    examples[5]["image"] = encoded(pixels(5, 15))
    folder = prepare(tmp_path, TEXT, {"train": examples})
    with pytest.raises(UserError, match=r"record \d is unusable.*2 more.*--on-bad-image skip"):
        load(folder)
    with caplog.at_level(logging.WARNING, "advcloak_jax"):
        faces = load(folder, policy="skip")
    assert by_person(faces) == {
        "p0": {pixels(0).tobytes(), pixels(3).tobytes()},
        "p1": {pixels(4).tobytes()},
    }
    assert sum(record.message.startswith("skipped tfds:") for record in caplog.records) == 3


def test_mocked_registered_sets(caplog: pytest.LogCaptureFixture) -> None:
    with tfds.testing.mock_data(num_examples=12), caplog.at_level(logging.WARNING, "advcloak_jax"):
        lfw = load("lfw", size=64)
        digits = load("mnist", ":train")
        celeb = "celeb_a"
        with pytest.raises(UserError, match=r"record 0 is unusable \(178x218 is not square"):
            load(celeb)
    assert lfw.images.shape == (12, 64, 64, 3)
    assert len(lfw.names) == 12
    assert digits.images.shape == (12, SIZE, SIZE, 3)
    assert set(digits.names) <= {str(digit) for digit in range(10)}
    assert "tfds:lfw: 12 of 12 images were not 64x64 and were resized" in caplog.text


def test_no_or_ambiguous_features(tmp_path: Path) -> None:
    image = tfds.features.Image(shape=(None, None, 3))
    text = tfds.features.Text()
    stream = lambda: encoded(pixels(0))  # noqa: E731

    def folder(name: str, features: dict, example: dict) -> Path:
        return prepare(tmp_path / name, features, {"train": [example]})

    blind = folder("blind", {"identity": text}, {"identity": "p"})
    with pytest.raises(UserError, match="no image feature found, none of identity is one"):
        load(blind)
    nameless = folder("nameless", {"image": image, "age": np.float32}, {"image": stream(), "age": 1.0})
    with pytest.raises(UserError, match="no identity feature found"):
        load(nameless)
    two = folder("two", {"left": image, "right": image, "who": text}, {"left": stream(), "right": stream(), "who": "p"})
    with pytest.raises(UserError, match="cannot tell which of left, right is it"):
        load(two)
    many = tfds.features.Sequence({"identity": text, "image": image})
    album = folder("album", {"faces": many}, {"faces": [{"identity": "p", "image": stream()}]})
    with pytest.raises(UserError, match="none of faces is one"):
        load(album)
    assert load(two, ":train:right:who").names == ("p",)
    with pytest.raises(UserError, match=r"no image feature 'middle'; it has left, right\."):
        load(two, ":train:middle:who")
    with pytest.raises(UserError, match=r"no identity feature 'left'; it has who"):
        load(two, ":train:right:left")


def test_what_cannot_be_opened(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no dataset_info\.json; give .*1\.0\.0"):
        load(tiny.parent)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(UserError, match=r"no dataset_info\.json; give the version folder"):
        load(tmp_path / "hollow")
    with pytest.raises(UserError, match=r"no readable split 'valid' \(it has test, train\)"):
        load(tiny, ":valid")
    with pytest.raises(UserError, match="did you mean celeb_a"):
        load("celeba")
    (tiny / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="cannot open"):
        load(tiny)


def test_damaged_records(tiny: Path) -> None:
    for file in tiny.glob("*train.array_record*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError):
        load(tiny, ":train")
    for file in tiny.glob("*train.array_record*"):
        file.unlink()
    with pytest.raises(UserError):
        load(tiny, ":train")


def test_not_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"not prepared in .*array_record"):
        load("lfw")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("lfw", TfdsSpec("lfw")),
        ("lfw:train", TfdsSpec("lfw", "train")),
        ("lfw:train[:10%]", TfdsSpec("lfw", "train[:10%]")),
        ("my/config:1.0.0:test", TfdsSpec("my/config:1.0.0", "test")),
        ("/a/b/1.0.0:train:x:y/z", TfdsSpec("/a/b/1.0.0", "train", "x", "y/z")),
        ("lfw::face:who", TfdsSpec("lfw", "", "face", "who")),
    ],
)
def test_specs(text: str, spec: TfdsSpec) -> None:
    assert parse_spec(text) == spec


@pytest.mark.parametrize("text", ["", ":train", "a:b:c", "a:b:c:d:e"])
def test_malformed_specs(text: str) -> None:
    with pytest.raises(UserError, match="not of the form"):
        parse_spec(text)
