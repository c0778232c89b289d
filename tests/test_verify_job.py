"""`evaluate.py verify`: on given and on drawn pairs, and what it says of a recogniser that tells nobody apart."""

import csv
import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patterned_faces import EACH, PERSONS, SIZE, faces
from PIL import Image

from advcloak_jax.config import VerifyConfig
from advcloak_jax.errors import UserError
from advcloak_jax.jobs.verify import run_verify

SHARED = Path(os.environ.get("ADVCLOAK_SHARED", Path(__file__).parents[1].parent / "shared"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The faces in folders, and pairs.csv: two folds with 90 same and 90 different pairs each."""
    root = tmp_path_factory.mktemp("people")
    names = []
    for number, face in enumerate(faces()):
        person = f"p{number // EACH:02d}"
        (root / "faces" / person).mkdir(parents=True, exist_ok=True)
        names.append(f"{person}/{number % EACH}.png")
        Image.fromarray(face).save(root / "faces" / names[-1])
    rng = np.random.default_rng(1)
    rows = ["fold,image1,image2,same"]
    for person in range(PERSONS):
        for a in range(EACH):
            for b in range(a):
                one, two = person * EACH + a, person * EACH + b
                other = (person + 1 + int(rng.integers(PERSONS - 1))) % PERSONS * EACH + b
                rows.append(f"{person % 2},{names[one]},{names[two]},1")
                rows.append(f"{person % 2},{names[one]},{names[other]},0")
    (root / "pairs.csv").write_text("\n".join(rows))
    return root


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of recognisers in the working directory; its name is new, so that no earlier import is used."""
    (tmp_path / "verified_recognisers.py").write_text(
        "import numpy as np\n"
        "def good(images):\n    return images[:, ::4, ::4].reshape(len(images), -1) - 128.0\n"
        "def corner(images):\n    return images[:, :8, :8].reshape(len(images), -1) - 128.0\n"
        "def blind(images):\n    return np.zeros((len(images), 4))\n"
        "def noise(images):\n    return np.random.default_rng(0).normal(size=(len(images), 200))\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


GOOD = "python:verified_recognisers:good,name=good"


def verify(**settings: Any) -> dict[str, Any]:
    run_verify(VerifyConfig(image_size=SIZE, out="out", cache="", **settings))
    return json.loads(Path("out/verification.json").read_text())


def test_a_list_is_verified_by_its_folds(functions: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = (GOOD, "python:verified_recognisers:corner,name=corner")
    result = verify(targets=targets, pairs=str(people / "pairs.csv"), pairs_root=str(people / "faces"))
    assert (result["persons"], result["images"], result["mirror"]) == (PERSONS, PERSONS * EACH, True)
    good = result["recognisers"]["good"]
    assert (good["same_pairs"], good["different_pairs"], good["folds"]["number"]) == (180, 180, 2)
    # The embedding by hand, of the face and its mirror image.
    images = faces().astype(float)
    features = [view[:, ::4, ::4].reshape(len(images), -1) - 128 for view in (images, images[:, :, ::-1])]
    both = sum(one / np.linalg.norm(one, axis=1, keepdims=True) for one in features)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    rows = list(csv.DictReader((people / "pairs.csv").read_text().splitlines()))
    index = [[int(row[side][1:3]) * EACH + int(row[side][4]) for row in rows] for side in ("image1", "image2")]
    same = np.array([row["same"] == "1" for row in rows])
    cosines = (both[index[0]] * both[index[1]]).sum(1)
    assert good["auc"] == pytest.approx(np.mean(cosines[same][:, None] > cosines[~same]), abs=1e-4)
    assert good["rank1"] == 1
    assert (good["tar"]["0.01"], good["tar"]["0.001"]) == (pytest.approx(1, abs=0.1), None)
    assert good["images_per_second"] > 0  # the mirror images are counted after the first block
    # Curve, table and files.
    assert (good["roc"]["far"][0], good["roc"]["far"][-1]) == (0, 1)
    assert len(list(Path("out").glob("*.png"))) == 3
    table = list(csv.DictReader(Path("out/verification.csv").read_text().splitlines()))
    assert [row["recogniser"] for row in table] == ["good", "corner"]
    assert float(table[0]["folds_accuracy"]) == good["folds"]["accuracy"]
    assert table[0]["tar_at_far_0.001"] == ""
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "30 persons, 120 images, 180 same and 180 different pairs, 2 folds, with mirror images"
    assert shown[1].split("  ")[0] == "recogniser"
    assert f"{100 * good['folds']['accuracy']:.2f} +- {100 * good['folds']['std']:.2f} %" in shown[2]
    assert len({len(line) for line in shown[1:4]}) == 1


def test_mirror_images_are_as_asked_for(functions: Path, people: Path) -> None:
    listed = {"pairs": str(people / "pairs.csv"), "pairs_root": str(people / "faces")}
    drawn = {"data": (f"folder:{people / 'faces'}",)}
    results = [
        verify(targets=(GOOD,), **source, mirror=mirror)
        for source, mirror in ((listed, "no"), (listed, "auto"), (drawn, "auto"), (drawn, "yes"))
    ]
    assert [result["mirror"] for result in results] == [False, True, False, True]
    scores = [result["recognisers"]["good"]["histogram"]["different"] for result in results]
    assert scores[0] != scores[1]
    assert results[2]["recognisers"]["good"]["folds"] is None
    assert results[2]["recognisers"]["good"]["same_pairs"] == PERSONS * EACH * (EACH - 1) // 2


def test_a_bin_file_is_verified_without_knowing_who_is_who(
    functions: Path, people: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = list(csv.DictReader((people / "pairs.csv").read_text().splitlines()))
    images = [(people / "faces" / row[side]).read_bytes() for row in rows for side in ("image1", "image2")]
    Path("lfw.bin").write_bytes(pickle.dumps((images, [row["same"] == "1" for row in rows])))
    result = verify(targets=(GOOD,), pairs="lfw.bin")
    assert (result["persons"], result["images"]) == (None, 720)
    assert result["recognisers"]["good"]["folds"]["number"] == 10
    assert result["recognisers"]["good"]["rank1"] is None
    assert "does not name its persons" in caplog.text
    listed = verify(targets=(GOOD,), pairs=str(people / "pairs.csv"), pairs_root=str(people / "faces"))
    assert result["recognisers"]["good"]["auc"] == pytest.approx(listed["recognisers"]["good"]["auc"], abs=1e-6)


def test_what_does_not_go_together_is_refused(functions: Path, people: Path) -> None:
    with pytest.raises(UserError, match="--data and --pairs exclude each other"):
        VerifyConfig(data=("folder:x",), pairs="y.bin")
    with pytest.raises(UserError, match="--pairs-root is only for the list"):
        VerifyConfig(pairs_root="x")
    with pytest.raises(UserError, match="--data or --pairs is needed: good"):
        verify(targets=(GOOD,))
    with pytest.raises(UserError, match="two of --targets are called good"):
        verify(targets=(GOOD, GOOD), pairs=str(people / "pairs.csv"), pairs_root=str(people / "faces"))
    with pytest.raises(UserError, match="--image-size must be at least 32"):
        VerifyConfig(image_size=0)


def test_nothing_but_zeros_is_refused(functions: Path, people: Path) -> None:
    blind = ("python:verified_recognisers:blind,name=blind",)
    with pytest.raises(UserError, match="blind gave only zeros for"):
        verify(targets=blind, pairs=str(people / "pairs.csv"), pairs_root=str(people / "faces"))
    assert not Path("out").exists()


def test_guessing_is_told_once_and_others_are_left_in_peace(
    functions: Path, people: Path, caplog: pytest.LogCaptureFixture
) -> None:
    targets = (GOOD, "python:verified_recognisers:noise,name=noise")
    verify(targets=targets, pairs=str(people / "pairs.csv"), pairs_root=str(people / "faces"))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("noise: AUC 0.")
    assert "over 360 pairs is closer to guessing (0.5) than to recognising (1)" in warnings[0]
    assert "none of 8 other channel orders and crops makes it better" in warnings[0]


@pytest.mark.slow
def test_a_real_network_on_half_of_lfw(tmp_path: Path) -> None:
    network, pairs = SHARED / "models/edgeface_xxs/edgeface_xxs.onnx", SHARED / "faces/lfw_pairs.csv"
    if not (network.exists() and pairs.exists()):
        pytest.skip("needs LFW's pairs and EdgeFace, which are not here")
    pytest.importorskip("onnxruntime")
    rows = pairs.read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join([rows[0], *rows[1::6]]))
    run_verify(
        VerifyConfig(
            targets=(f"onnx:{network},mean=127.5,std=127.5",),
            pairs=str(tmp_path / "some.csv"),
            pairs_root=str(SHARED / "faces/lfw_grey"),
            out=str(tmp_path / "out"),
        )
    )
    result = json.loads((tmp_path / "out/verification.json").read_text())["recognisers"]["edgeface_xxs"]
    assert result["folds"]["number"] == 10
    assert result["folds"]["accuracy"] > 0.98
