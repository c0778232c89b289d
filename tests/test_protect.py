"""A person's own photos in, protected photos out: what is written, what is left alone, and what is refused."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Capture, main
from person_photos import LARGE, SIZE, files, pixels, run, write_photos, write_runs
from PIL import Image

from advcloak_jax import commands, images
from advcloak_jax.config import ExportConfig
from advcloak_jax.data import synthetic
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import identification
from advcloak_jax.jobs import export, protect_trial
from advcloak_jax.photos import alignment


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "mine")


def test_every_photo_wears_the_one_mask(runs: Path, photos: Path) -> None:
    before = {name: (photos / name).read_bytes() for name in files(photos)}
    out = run(photos, cloak=str(runs / "person"), norm=600.0)
    assert files(out) == [
        "comparison.png",
        "mask.npy",
        *(f"photos/{name}" for name in ("a.png", "b.png", "c.jpg", "more/d.png")),
        "protection.csv",
        "protection.json",
    ]
    assert {name: (photos / name).read_bytes() for name in files(photos)} == before
    mask = np.load(out / "mask.npy")
    assert np.linalg.norm(mask) * 255 == pytest.approx(600 * SIZE / 112, rel=1e-4)
    for name in ("a.png", "b.png"):
        clean, found = np.asarray(Image.open(photos / name)), pixels(out / "photos" / name)
        np.testing.assert_array_equal(found, images.protect(clean, mask))
    # The larger photo, brought to the crop's size, has the same mask.
    large = [Image.open(root / "more/d.png") for root in (photos, out / "photos")]
    assert large[1].size == (LARGE, LARGE)
    clean, found = (alignment.crop(one, alignment.whole(LARGE, LARGE, SIZE), SIZE).astype(float) for one in large)
    inside = (slice(2, -2), slice(2, -2))
    assert np.corrcoef((found - clean)[inside].ravel(), mask[inside].ravel())[0, 1] > 0.6
    told = json.loads((out / "protection.json").read_text())
    assert list(told["left_out"]) == ["torn.png", "film.HEIC"]
    assert told["cloak"] == "AdvCloak-ConvexHull"
    rows = list(csv.DictReader((out / "protection.csv").read_text().splitlines()))
    assert [(row["photo"], row["face_pixels"], row["found_again"]) for row in rows] == [
        ("a.png", "32", "True"),
        ("b.png", "32", "True"),
        ("c.jpg", "32", "True"),
        ("more/d.png", "96", "True"),
    ]


def test_the_same_call_writes_the_same_bytes(runs: Path, photos: Path) -> None:
    first, second = (run(photos, name, cloak=str(runs / "image")) for name in ("one", "two"))
    names = [name for name in files(first) if name != "protection.json"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_later_photos_get_the_mask_that_was_made(runs: Path, photos: Path) -> None:
    first = run(photos, cloak=str(runs / "image"), norm=700.0, fade=8)
    second = run(photos, "again", mask=str(first / "mask.npy"))
    for name in files(first / "photos"):
        assert (first / "photos" / name).read_bytes() == (second / "photos" / name).read_bytes()
    third = run(photos, "stronger", mask=str(first / "mask.npy"), norm=900.0)
    masks = [np.load(out / "mask.npy") for out in (first, third)]
    np.testing.assert_allclose(masks[1], masks[0] * 9 / 7, rtol=1e-4, atol=1e-7)


def test_an_export_makes_the_runs_mask(runs: Path, photos: Path, tmp_path: Path) -> None:
    out = export.run_export(
        ExportConfig(run=str(runs / "person"), out=str(tmp_path / "exported"), formats=("safetensors",))
    )
    masks = [
        np.load(run(photos, name, cloak=cloak) / "mask.npy")
        for name, cloak in (("of-run", str(runs / "person")), ("of-export", str(out)))
    ]
    np.testing.assert_array_equal(*masks)


def test_methods_need_no_training(runs: Path, photos: Path) -> None:
    settings = {"method": "fi-uap:steps=2", "surrogate": str(runs / "r")}
    box = np.load(run(photos, **settings) / "mask.npy")
    # Signs of gradients in a box, brought to the norm.
    assert np.abs(box).max() < 5 * np.abs(box).mean()
    hybrid = np.load(run(photos, "hybrid", method="hybrid:steps=1", cloak=str(runs / "person")) / "mask.npy")
    plain = np.load(run(photos, "plain", cloak=str(runs / "person")) / "mask.npy")
    assert 0.9 < np.sum(hybrid * plain) / (np.linalg.norm(hybrid) * np.linalg.norm(plain)) < 0.9999


def test_the_trial_is_on_what_a_web_site_shows(runs: Path, photos: Path) -> None:
    """The clean photos too: what compression alone does is no protection."""
    settings = {"cloak": str(runs / "person"), "targets": (str(runs / "r"),)}
    outs = [run(photos, name, upload_quality=quality, **settings) for name, quality in (("own", 0), ("passed", 30))]
    told = [json.loads((out / "protection.json").read_text())["recognisers"][0] for out in outs]
    assert told[0]["before"] != told[1]["before"]
    assert told[0]["after"] != told[1]["after"]
    for name in files(outs[0] / "photos"):
        assert (outs[0] / "photos" / name).read_bytes() == (outs[1] / "photos" / name).read_bytes()


def test_a_trial_tells_each_photo_and_the_crowd(
    runs: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "tried_recognisers.py").write_text(
        "def embed(images):\n    return images[:, ::4, ::4].reshape(len(images), -1) - 125.0\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = {"targets": ("python:tried_recognisers:embed,name=T",), "distractors": ("synthetic:5x2",)}
    out = run(photos, cloak=str(runs / "person"), norm=9000.0, **settings)
    told = json.loads((out / "protection.json").read_text())["recognisers"][0]

    def features(root: Path) -> np.ndarray:
        crops = [pixels(root / name) for name in ("a.png", "b.png", "c.jpg")]
        large = Image.open(root / "more/d.png")
        crops.append(alignment.crop(large, alignment.whole(LARGE, LARGE, SIZE), SIZE).astype(int))
        return unit(np.stack(crops)[:, ::4, ::4].reshape(4, -1) - 125.0)

    clean, worn = features(photos), features(out / "photos")
    crowd = unit(synthetic.render(range(5), 2, seed=0, image_size=SIZE)[:, ::4, ::4].reshape(10, -1) - 125.0)
    for when, probes, place in (("before", clean, 0), ("after", worn, 1)):
        cosines = probes @ clean.T
        np.testing.assert_allclose(told[when], (cosines.sum(1) - np.diag(cosines)) / 3, atol=1e-5)
        above = [(crowd @ probes[i] > cosines[i, j]).sum() for i in range(4) for j in range(4) if i != j]
        for k in (1, 5):
            assert told["hidden"][str(k)][place] == pytest.approx(100 * np.mean(np.array(above) >= k))
    assert re.search(r"^T +", capsys.readouterr().out, re.MULTILINE)
    assert len((out / "protection.csv").read_text().splitlines()[0].split(",")) == 8


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def test_ranks_of_many_photos_are_those_of_the_protocol() -> None:
    draw = np.random.default_rng(0)
    probes, mates, strangers = (unit(draw.normal(size=(n, 8)).astype(np.float32)) for n in (7, 7, 90))
    expected = identification.ranks(probes[None], mates[None], strangers)[0]
    np.testing.assert_array_equal(protect_trial.ranks(probes, mates, strangers), expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "--cloak, --method or --mask is needed"),
        ({"cloak": "x", "detector": ""}, "--detector is needed"),
        ({"cloak": "x", "mask": "y"}, "--mask is a cloak that was made before"),
        ({"cloak": "x", "method": "fi-uap", "surrogate": "y"}, "--cloak goes with --method hybrid alone"),
        ({"method": "hybrid"}, "--cloak goes with --method hybrid alone"),
        ({"method": "fi-uap"}, "--surrogate belongs to --method"),
        ({"cloak": "x", "surrogate": "y"}, "--surrogate belongs to --method"),
        ({"cloak": "x", "upload_side": 500}, "--upload-side is for a trial"),
        ({"mask": "x.npy", "fade": 2}, "--fade is fixed by --mask"),
        ({"cloak": "x", "image_size": 64}, "--image-size is fixed by --cloak"),
        ({"cloak": "{runs}/r", "method": "hybrid"}, "is a run of `train.py recognizer`; name one of person"),
        ({"method": "fi-uap", "surrogate": "{runs}/person"}, r"^--surrogate .*person is a run of `train.py person`"),
        ({"cloak": "nowhere"}, "nowhere is no run folder"),
        ({"cloak": "x", "detector": "nowhere.onnx"}, r"--detector nowhere\.onnx is no file"),
        ({"mask": "nowhere.npy"}, r"--mask nowhere\.npy is no mask\.npy"),
        ({"method": "fi-uapp", "surrogate": "{runs}/r"}, "did you mean 'fi-uap'"),
        ({"cloak": "{runs}/r"}, "is a run of `train.py recognizer`; name one of person, image or universal"),
    ],
)
def test_what_cannot_be_met_is_refused(runs: Path, photos: Path, settings: dict[str, Any], said: str) -> None:
    given = {name: str(value).replace("{runs}", str(runs)) for name, value in settings.items()}
    given |= {name: value for name, value in settings.items() if not isinstance(value, str)}
    with pytest.raises(UserError, match=said):
        run(photos, **given)
    assert [path.name for path in photos.parent.iterdir()] == ["mine"]


def test_places_that_would_harm_the_photos_are_refused(runs: Path, photos: Path) -> None:
    cloak = str(runs / "person")
    with pytest.raises(UserError, match="is inside"):
        run(photos, "mine/out", cloak=cloak)
    (photos.parent / "full").mkdir()
    (photos.parent / "full" / "x").touch()
    with pytest.raises(UserError, match="full exists already"):
        run(photos, "full", cloak=cloak)
    shutil.copy(photos / "a.png", photos / "c.png")
    with pytest.raises(UserError, match=r"would both become c\.png"):
        run(photos, cloak=cloak, file_format="png")


@pytest.mark.parametrize("value", [np.zeros((4, 4, 3), np.float32), np.ones((4, 4), np.float32), np.ones((4, 4, 3))])
def test_a_file_that_is_no_mask_is_refused(photos: Path, tmp_path: Path, value: np.ndarray) -> None:
    np.save(tmp_path / "bad.npy", value)
    with pytest.raises(UserError, match=r"--mask .*bad\.npy holds"):
        run(photos, mask=str(tmp_path / "bad.npy"))


def test_no_face_at_all_is_told(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "torn.png").write_bytes(b"torn")
    with pytest.raises(UserError, match="holds no photo with a face that can be used"):
        run(tmp_path / "mine", cloak=str(runs / "person"))
    assert not (tmp_path / "out").exists()


def test_the_command_line(runs: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    out = str(photos.parent / "out")
    said = main(monkeypatch, capsys, str(photos), out, "--detector", "crops", run=commands.protect)
    assert said == "--cloak, --method or --mask is needed: which cloak."
    said = main(monkeypatch, capsys, str(photos), out, "--clok", "x", run=commands.protect)
    assert "--cloak" in said
    monkeypatch.setattr("sys.argv", ["protect.py"])
    monkeypatch.chdir(photos.parent)
    commands.protect([str(photos), out, "--detector", "crops", "--cloak", str(runs / "person"), "--cache", "none"])
    assert "4 protected photos, 2 left out" in capsys.readouterr().err
    assert sorted(path.name for path in photos.parent.iterdir()) == ["mine", "out"]
