"""How well protected photos hide: against plain NumPy on the files themselves."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import Capture
from person_photos import LARGE, SIZE, files, pixels, run, write_photos, write_runs
from PIL import Image

from advcloak_jax.data import synthetic
from advcloak_jax.evaluation import identification
from advcloak_jax.jobs import protect_trial
from advcloak_jax.photos import alignment


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "mine")


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
