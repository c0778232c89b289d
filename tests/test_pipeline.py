"""The whole pipeline on a tiny set, in this process: what each job writes and what it refuses."""

import csv
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from advcloak_jax.commands import evaluate, train
from advcloak_jax.errors import UserError
from advcloak_jax.jobs import universal
from advcloak_jax.training.checkpoint import read_checkpoint
from advcloak_jax.training.runs import read_run

pytestmark = pytest.mark.slow

FACES = [
    *("--data", "synthetic:30x6", "--image-size", "32", "--split.protected", "4", "--split.n-inference", "2"),
    *("--split.n-test", "3", "--split.generator", "6", "--split.generator-images", "4", "--split.validation", "3"),
    *("--split.surrogate", "6", "--split.target", "6"),
]
RHYTHM = ["--steps", "4", "--steps-per-dispatch", "2", "--log-every", "2", "--checkpoint-every", "2"]
SMALL = ["--architecture", "ir18", "--width", "0.05", "--embedding-size", "16", "--batch", "8"]
NETWORKS = ["--generator-width", "4", "--discriminator-width", "4", "--batch", "4"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the runs surrogate, target, image, person, universal and the measurement table."""
    folder = tmp_path_factory.mktemp("pipeline")
    where = ["--cache", str(folder / "cache")]
    train(["recognizer", "--run", str(folder / "surrogate"), *FACES, *RHYTHM, *SMALL, *where])
    train(["recognizer", "--run", str(folder / "target"), "--part", "target", *FACES, *RHYTHM, *SMALL, *where])
    stage = [*RHYTHM, *where]
    train(["image", "--run", str(folder / "image"), "--surrogate", str(folder / "surrogate"), *NETWORKS, *stage])
    train(["person", "--run", str(folder / "person"), "--generator", str(folder / "image"), *stage])
    flags = ["--generator-width", "4", "--batch", "4", "--surrogate", str(folder / "surrogate")]
    train(["universal", "--run", str(folder / "universal"), *flags, *stage])
    evaluate(["table", *table(folder), "--out", str(folder / "table")])
    return folder


def table(folder: Path) -> list[str]:
    cloaks = ["--cloaks", str(folder / "image"), str(folder / "person")]
    return [*cloaks, "--targets", str(folder / "target"), "--cache", str(folder / "cache")]


def test_a_run_holds_what_the_readme_says(runs: Path) -> None:
    for name in ("surrogate", "target", "image", "person", "universal"):
        run = runs / name
        config = json.loads((run / "config.json").read_text())
        assert config["code"]["jax"]
        assert config["config"]["image_size"] == 32
        rows = list(csv.DictReader((run / "metrics.csv").open()))
        assert [int(row["step"]) for row in rows if row["images_per_second"]] == [2, 4]
        assert json.loads((run / "result.json").read_text())["step"] == 4
        assert list((run / "tensorboard").glob("events*"))
        assert (run / "checkpoints" / "4").is_dir()
    assert sorted(path.name for path in (runs / "person" / "samples").iterdir()) == ["00000002.png", "00000004.png"]
    assert Image.open(runs / "person" / "samples" / "00000004.png").size == (3 * 32, 2 * 32)


@pytest.mark.parametrize("name", ["surrogate", "image", "person"])
def test_config_json_repeats_the_run(runs: Path, tmp_path: Path, name: str) -> None:
    job = json.loads((runs / name / "config.json").read_text())["job"]
    train([job, "--config", str(runs / name / "config.json"), "--run", str(tmp_path / "again")])
    (step, first), (_, again) = (
        read_checkpoint(folder / "checkpoints", best=False) for folder in (runs / name, tmp_path / "again")
    )
    assert step == 4
    assert jax.tree.structure(first) == jax.tree.structure(again)
    for here, there in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        assert np.asarray(here).tobytes() == np.asarray(there).tobytes()


def test_a_universal_run_gives_its_mask(runs: Path) -> None:
    cloak = universal.load_cloak(read_run(runs / "universal"))
    mask = np.asarray(cloak.make_masks(jnp.zeros((2, 2, 32, 32, 3)), jax.random.key(0)))
    assert (cloak.name, cloak.kind, mask.shape) == ("GAP", "universal", (32, 32, 3))
    assert 0 < np.abs(mask).max() <= 10.001 / 255


def test_parts_of_the_split_are_disjoint_and_shared_by_all_jobs(runs: Path) -> None:
    split = json.loads((runs / "surrogate" / "split.json").read_text())
    assert all(json.loads((runs / name / "split.json").read_text()) == split for name in ("target", "image", "person"))
    names = [entry["name"] for part in ("protected", "generator") for entry in split[part]]
    names += split["validation"] + split["surrogate"] + split["target"] + split["distractors"]
    assert len(names) == len(set(names)) == 30


def test_the_table_has_every_row_and_masks_of_the_asked_norm(runs: Path) -> None:
    result = json.loads((runs / "table" / "table.json").read_text())
    assert [row["method"] for row in result["protection"]] == [
        "Unprotected",
        "Random mask",
        "AdvFaces",
        "AdvFaces+",
        "AdvCloak-ConvexHull",
    ]
    for row in result["protection"]:
        for per_target in row["protection"].values():
            assert (
                0 <= per_target["top10"]["value"] <= per_target["top5"]["value"] <= per_target["top1"]["value"] <= 100
            )
    # A mask of L2 norm 1200 * 32 / 112 over 32 * 32 * 3 values is 6.19 grey levels root mean square: 32.3 dB, a little
    # more where pixels were clipped, a little less where they were truncated.
    for row in result["protection"][1:]:
        assert row["psnr"] == pytest.approx(20 * np.log10(255 / 6.19), abs=0.4)
    assert result["facts"]["Trials"] == str(4 * 3 * 2)
    assert {row["role"] for row in result["recognisers"]} == {"surrogate", "black box"}


def test_the_report_needs_nothing_else(runs: Path) -> None:
    page = (runs / "table" / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', page) == []
    for word in ("AdvCloak-ConvexHull", "does not guarantee", "image_size"):
        assert word in page
    assert "lambda_adversarial" not in page  # as published, so not among the settings that differ
    assert page.count("data:image/png") >= 1 + 2 + 2 * 2 + 2 * 3


def test_the_table_is_the_same_again(runs: Path) -> None:
    shutil.copytree(runs / "cache" / "programs", runs / "fresh" / "programs")
    for name, cache in (("computed", "fresh"), ("taken", "cache")):
        evaluate(["table", *table(runs), "--out", str(runs / name), "--cache", str(runs / cache)])
    first, computed, taken = (
        json.loads((runs / name / "table.json").read_text()) for name in ("table", "computed", "taken")
    )
    for again in (computed, taken):
        assert first["protection"] == again["protection"]
        assert first["differences"] == again["differences"]
    assert all(not kind["taken"] for kind in (computed["cache"][name] for name in ("masks", "timings")))
    assert all(not kind["computed"] for kind in (taken["cache"][name] for name in ("masks", "embeddings", "timings")))
    assert first["costs"] == [
        {**row, "per_image": mine["per_image"]} for row, mine in zip(taken["costs"], first["costs"], strict=True)
    ]


def test_methods_stand_beside_trained_cloaks_and_only_new_ones_are_computed(runs: Path) -> None:
    out, methods = runs / "methods", ["--methods", "fi-uap:steps=2", "hybrid:start=AdvCloak-ConvexHull,steps=1"]
    arguments = ["--cloaks", str(runs / "image"), str(runs / "person"), "--cache", str(runs / "cache")]
    arguments += ["--targets", str(runs / "target"), str(runs / "surrogate")]
    evaluate(["table", *arguments, *methods, "--out", str(out)])
    result = json.loads((out / "table.json").read_text())
    assert [row["method"] for row in result["protection"]][2:] == [
        "FI-UAP",
        "Hybrid (AdvCloak-ConvexHull)",
        "AdvFaces",
        "AdvFaces+",
        "AdvCloak-ConvexHull",
    ]
    source = "surrogate (ir18)"
    assert [one.split(" against")[0] for one in result["cache"]["masks"]["computed"]] == [
        "FI-UAP",
        "Hybrid (AdvCloak-ConvexHull)",
    ]
    for row in result["protection"][2:]:
        assert row["source"] == source
        assert source not in row["protection"]
    assert source in result["protection"][0]["protection"]
    text = (out / "table.txt").read_text()
    for expected in ("Hybrid (AdvCloak-ConvexHull)", "Points gained over", "Per person, s", "own surrogate"):
        assert expected in text
    assert len((out / "table.md").read_text().splitlines()) == 2 + 7
    page = (out / "report.html").read_text()
    assert "person-specific masks" in page
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', page) == []
    # A table without trained cloaks takes the same masks.
    alone = ["--methods", methods[1], "--surrogates", str(runs / "surrogate"), "--split-from", str(runs / "target")]
    alone += ["--targets", str(runs / "target"), "--cache", str(runs / "cache"), "--out", str(runs / "alone")]
    evaluate(["table", *alone])
    again = json.loads((runs / "alone" / "table.json").read_text())
    assert again["cache"]["masks"]["computed"] == []
    rates = [row["protection"]["target (ir18)"] for row in (again["protection"][2], result["protection"][2])]
    assert rates[0] == rates[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "fi-uapp"], "did you mean 'fi-uap'"),
        (["--methods", "hybrid"], "needs start="),
        (["--methods", "hybrid:start=nobody"], "there are: AdvFaces\\+, AdvCloak-ConvexHull"),
        (["--baseline", "nobody"], "--baseline nobody is no row"),
        (["--cloaks", "{runs}/image", "{runs}/../{name}/image"], "is named twice"),
        (["--methods", "fi-uap", "--surrogates", "{runs}/image"], "is a run of `train.py image`"),
        (["--methods", "fi-uap", "--surrogates", "{runs}/surrogate+{runs}/surrogate"], "names one recogniser twice"),
    ],
)
def test_what_no_table_can_be_made_of_is_refused(runs: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    given = [part.replace("{runs}", str(runs)).replace("{name}", runs.name) for part in flags]
    with pytest.raises(UserError, match=message):
        evaluate(["table", *table(runs), *given, "--out", str(tmp_path / "table")])
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("flags", "files"),
    [
        (["n-inference", "--n-inference", "1", "2"], ["n-inference"]),
        (["norm", "--norms", "600", "1800"], ["norm", "ssim"]),
        (["stages"], ["stages-image-specific", "stages-person-specific"]),
    ],
)
def test_an_ablation_has_its_points_and_its_plots(runs: Path, flags: list[str], files: list[str]) -> None:
    if not (runs / "none").exists():
        fresh = ["--generator", "none", "--surrogate", str(runs / "surrogate"), "--subspace", "convex-hull"]
        small = [*NETWORKS[:4], *RHYTHM, "--cache", str(runs / "cache")]
        train(["person", "--run", str(runs / "none"), *fresh, *small])
    cloaks = [str(runs / name) for name in ("image", "person", "none")]
    common = ["--cloaks", *cloaks, "--targets", str(runs / "target"), "--cache", str(runs / "cache")]
    evaluate(["ablation", *flags, *common, "--out", str(runs / "ablation")])
    out = runs / "ablation"
    for name in files:
        assert Image.open(out / f"{name}.png").size[0] > 400
        assert (out / f"{name}.svg").read_text().lstrip().startswith("<?xml")
    points = json.loads((out / f"{flags[0]}.json").read_text())["points"]
    lines = list(csv.DictReader((out / f"{flags[0]}.csv").open()))
    assert len(lines) == sum(len(per_k) for point in points for per_k in point["protection"].values())
    found = {(point["method"], point["x"]) for point in points}
    if flags[0] == "n-inference":
        assert found == {("Unprotected", 0)} | {
            (name, x)
            for name in ("AdvFaces+", "AdvCloak-ConvexHull", "AdvCloak-ConvexHull, no stage I")
            for x in (1, 2)
        }
    if flags[0] == "norm":
        by_norm = {x: [p["psnr"] for p in points if p["x"] == x] for x in (600, 1800)}
        # Three times the norm is 9.5 dB more noise; a little less, as truncation adds some to both.
        assert np.mean(by_norm[600]) - np.mean(by_norm[1800]) == pytest.approx(20 * np.log10(3), abs=0.8)
        assert {name for name, _ in found} >= {"Random mask", "AdvFaces", "AdvFaces+"}
    if flags[0] == "stages":
        differences = json.loads((out / "stages.json").read_text())["differences"]
        assert {(one["method"], one["baseline"]) for one in differences} == {
            ("AdvCloak-ConvexHull", "AdvCloak-ConvexHull, no stage I"),
            ("AdvCloak-ConvexHull", "AdvFaces+"),
        }


def test_verification_is_of_people_no_recogniser_trained_on(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    targets = ["--targets", str(runs / "surrogate"), str(runs / "target")]
    evaluate(["verify", *targets, "--out", str(runs / "verify"), "--cache", str(runs / "cache")])
    result = json.loads((runs / "verify" / "verification.json").read_text())
    assert result["persons"] == 30 - 6 - 6
    pictures = {"roc.png", "histogram-surrogate__ir18_.png", "histogram-target__ir18_.png"}
    assert {path.name for path in (runs / "verify").glob("*.png")} == pictures
    # Three steps of training teach nothing; what would is told, without a search for other scales.
    assert caplog.text.count("train it longer or on more people") == 2


def test_recognisers_of_any_face_size_are_checked_and_broken_runs_told(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "surrogate", tmp_path / "found" / "good")
    (tmp_path / "found" / "torn").mkdir()
    (tmp_path / "found" / "torn" / "config.json").write_text('{"job": "recog')
    with pytest.raises(UserError, match=r"1 of 2 recognisers cannot be used.*torn"):
        evaluate(["targets", "--targets", str(tmp_path / "found")])
    good, torn = capsys.readouterr().out.splitlines()[1:3]
    assert "32x32" in good
    assert " works" in good
    assert "does not work" in torn


def test_a_recogniser_never_tests_whom_it_trained_on(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "target", tmp_path / "seen")
    split = json.loads((tmp_path / "seen" / "split.json").read_text())
    name = split["protected"][0]["name"]
    (tmp_path / "seen" / "split.json").write_text(json.dumps({**split, "target": [*split["target"], name]}))
    arguments = [part if part != str(runs / "target") else str(tmp_path / "seen") for part in table(runs)]
    with pytest.raises(UserError, match=f"was trained on {name}"):
        evaluate(["table", *arguments, "--out", str(tmp_path / "table")])
    (tmp_path / "seen" / "split.json").write_text('{"target": {}}')
    with pytest.raises(UserError, match=r"split\.json does not tell whom"):
        evaluate(["table", *arguments, "--out", str(tmp_path / "table")])
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize("flags", [["--image-size", "64"], ["--split.protected", "2"], ["--generator-width", "8"]])
def test_flags_that_the_earlier_run_has_fixed_are_refused(runs: Path, tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(UserError, match="is fixed by the run"):
        train(["person", "--run", str(tmp_path / "person"), "--generator", str(runs / "image"), *flags])
    assert not (tmp_path / "person").exists()


def test_a_surrogate_of_another_image_size_is_refused(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "surrogate", tmp_path / "big")
    stored = json.loads((tmp_path / "big" / "config.json").read_text())
    stored["config"]["image_size"] = 36
    (tmp_path / "big" / "config.json").write_text(json.dumps(stored))
    flags = ["--generator", str(runs / "image"), "--surrogate", str(tmp_path / "big")]
    with pytest.raises(UserError, match="takes 36-pixel faces"):
        train(["person", "--run", str(tmp_path / "person"), *flags])
