"""Which of the faces in a photo is the person's."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advcloak_jax.config import ImportConfig, ProtectConfig
from advcloak_jax.data.decode import BadImageError
from advcloak_jax.errors import UserError
from advcloak_jax.jobs import protect, protect_faces
from advcloak_jax.jobs.import_weights import run_import
from advcloak_jax.jobs.protect_faces import Face
from advcloak_jax.jobs.targets import load_target
from advcloak_jax.photos import alignment, detector
from advcloak_jax.settings import read_json

SHARED = Path(os.environ.get("ADVCLOAK_SHARED", Path(__file__).parents[2] / "shared"))
SIZE = 32


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four patterns, and a file that is cut short."""
    root = tmp_path / "mine"
    root.mkdir()
    draw = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png", "d.png"):
        small = draw.integers(60, 190, (8, 8, 3), np.uint8)
        Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(root / name)
    (root / "torn.png").write_bytes((root / "a.png").read_bytes()[:90])
    return root


def faces_and_a_friend(monkeypatch: pytest.MonkeyPatch, photos: Path) -> None:
    """Every photo but a.png shows two faces, the second one that of a.png, smaller."""
    mine = np.asarray(Image.open(photos / "a.png"))

    def faces_of(picture: Image.Image, detector: Any, image_size: int) -> list[Face]:
        matrix = alignment.whole(*picture.size, image_size)
        crop = alignment.crop(picture, matrix, image_size)
        own = Face(mine, matrix, np.array([1.0, 1, 3, 3]))
        return [own] if np.array_equal(crop, mine) else [Face(crop, matrix, np.array([4.0, 4, 9, 9])), own]

    monkeypatch.setattr(protect_faces, "faces_of", faces_of)


def test_of_several_faces_the_persons_is_taken(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faces_and_a_friend(monkeypatch, photos)
    paths = sorted(path for path in photos.rglob("*") if path.suffix in (".png", ".jpg") and path.stem != "torn")
    mine = np.asarray(Image.open(photos / "a.png"))
    (tmp_path / "told_recognisers.py").write_text(
        "def embed(images):\n    return images[:, ::4, ::4].reshape(len(images), -1) - 125.0\n"
    )
    monkeypatch.chdir(tmp_path)
    told = load_target("python:told_recognisers:embed")
    found, _ = protect_faces.find(photos, paths, None, told, SIZE)
    assert all(np.array_equal(one.face.crop, mine) for one in found)
    assert [one.faces for one in found] == [1, 2, 2, 2]
    known = protect_faces.known_face(photos / "a.png", None, SIZE)
    again, _ = protect_faces.find(photos, paths, None, told, SIZE, known)
    assert [one.alike for one in again] == pytest.approx([1, 1, 1, 1])
    with pytest.raises(UserError, match=r"b\.png shows 2 faces"):
        protect_faces.known_face(photos / "b.png", None, SIZE)
    with pytest.raises(UserError, match=r"torn\.png cannot be used"):
        protect_faces.known_face(photos / "torn.png", None, SIZE)
    with pytest.raises(UserError, match=r"b\.png \(and 2 more photos\) shows several faces; name --recognizer"):
        protect_faces.find(photos, paths, None, None, SIZE)
    alone, _ = protect_faces.find(photos, [photos / "a.png"], None, None, SIZE)
    assert [(one.faces, one.alike, one.doubtful) for one in alone] == [(1, None, False)]
    assert caplog.text == ""


def test_photos_of_somebody_else_are_told_even_where_most_are(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two photos are of the one that is known, the two others of two others."""
    shutil.copy(photos / "a.png", photos / "b.png")
    paths = [photos / name for name in ("a.png", "b.png", "c.png", "d.png")]
    (tmp_path / "doubting_recognisers.py").write_text(
        "def embed(images):\n    return images[:, ::4, ::4].reshape(len(images), -1) - 125.0\n"
    )
    monkeypatch.chdir(tmp_path)
    told = load_target("python:doubting_recognisers:embed")
    known = protect_faces.known_face(photos / "a.png", None, SIZE)
    found, _ = protect_faces.find(photos, paths, None, told, SIZE, known)
    assert [one.doubtful for one in found] == [False, False, True, True]
    assert caplog.text.count("may show somebody else") == 2
    caplog.clear()
    strangers, _ = protect_faces.find(photos, paths[2:], None, told, SIZE, known)
    assert [one.doubtful for one in strangers] == [False, False]
    assert "finds no one person in these photos" in caplog.text


class Eyes:
    """A detector that finds one face at a place of the photo, as a share of its sides, or none."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes = boxes

    def find(self, photo: Image.Image) -> list[detector.Face]:
        sides = np.array(photo.size * 2, float)
        found = []
        for box in self.boxes:
            place = np.array(box) * sides
            points = place[:2] + alignment.TEMPLATE / 112 * (place[2:] - place[:2])
            found.append(detector.Face(place, points, 0.9))
        return found


def test_a_face_is_found_again_in_a_smaller_picture_or_taken_where_it_was() -> None:
    draw = np.random.default_rng(0)
    photo = Image.fromarray(draw.integers(0, 256, (9, 12, 3), np.uint8)).resize((400, 300), Image.Resampling.BICUBIC)
    own, other = (0.1, 0.1, 0.4, 0.5), (0.5, 0.5, 0.9, 0.9)
    config = ProtectConfig(photos="in", out="out", targets=("x",), upload_side=200)
    eyes: Any = Eyes(own)
    (before,) = protect_faces.faces_of(photo, eyes, SIZE)
    for seen, again in ((Eyes(own), True), (Eyes(other, own), True), (Eyes(other), False), (Eyes(), False)):
        looks: Any = seen
        crop, found = protect_faces.shown(photo, before, looks, config, SIZE)
        assert found == again
        assert np.abs(crop.astype(int) - before.crop).mean() < 4
    assert np.abs(protect_faces.faces_of(photo, Eyes(other), SIZE)[0].crop.astype(int) - before.crop).mean() > 20  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "why"), [((64, 32), "is not square"), ((12, 12), "is too small")])
def test_crops_are_square_and_large_enough(size: tuple[int, int], why: str) -> None:
    with pytest.raises(BadImageError, match=why):
        protect_faces.faces_of(Image.new("RGB", size), None, SIZE)


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_name_that_is_no_text_is_kept_and_told(photos: Path, tmp_path: Path) -> None:
    name = b"\xff.png"
    shutil.copy(photos / "a.png", os.fsencode(photos) + b"/" + name)
    np.save(tmp_path / "mask.npy", np.full((SIZE, SIZE, 3), 0.02, np.float32))
    settings = {"detector": "crops", "mask": str(tmp_path / "mask.npy"), "cache": ""}
    out = protect.run(ProtectConfig(photos=str(photos), out=str(tmp_path / "out"), **settings))  # type: ignore[arg-type]
    assert name in os.listdir(os.fsencode(out / "photos"))
    assert "\\xff.png,1,,False," in (out / "protection.csv").read_text()


@pytest.mark.slow
def test_real_photos_are_hidden_from_a_recogniser_that_the_mask_was_not_made_against(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements-onnx.txt)")
    models, photos = SHARED / "models", sorted((SHARED / "photos").glob("*"))[:1]
    if not (models / "detectors").exists() or not photos:
        pytest.skip("needs the published models and photos in the folder ADVCLOAK_SHARED")
    surrogate = run_import(
        ImportConfig(file=str(models / "mobilefacenet_y1" / "model-symbol.json"), run=str(tmp_path / "y1"))
    )
    edge = f"onnx:{models / 'edgeface_xxs' / 'edgeface_xxs.onnx'},mean=127.5,std=127.5"
    out = protect.run(
        ProtectConfig(
            photos=str(photos[0]),
            out=str(tmp_path / "out"),
            detector=str(models / "detectors" / "scrfd_2.5g_bnkps.onnx"),
            method="opom-convex-hull:steps=8",
            surrogate=str(surrogate),
            targets=(edge,),
            cache="",
        )
    )
    told = read_json(out / "protection.json")
    (found,) = told["recognisers"]
    assert min(found["before"]) > 0.4
    assert np.mean(found["after"]) < np.mean(found["before"]) - 0.15
    assert all(photo["found_again"] for photo in told["photos"])
    for photo in told["photos"]:
        clean, worn = (Image.open(root / photo["photo"]) for root in (photos[0], out / "photos"))
        assert worn.size == clean.size
