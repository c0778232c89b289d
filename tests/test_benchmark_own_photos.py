"""The measurement over many people's photos: means over persons, no paths, and what is refused before the work."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import own_photos

FLAGS = ["--targets", "onnx:x.onnx", "--distractors", "folder:f"]


def told(top1: tuple[float, float], *cosines: float, flags: list[str] = FLAGS) -> dict[str, Any]:
    """What is kept of a person."""
    photos = [{"face_pixels": 100, "found_again": True, "doubtful": False} for _ in cosines]
    hidden = {"1": list(top1), "5": [0.0, top1[1] / 2]}
    recogniser = {"name": "R", "before": list(cosines), "after": [0.0 for _ in cosines], "hidden": hidden}
    about = {"settings": {"cloak": "/a/b/person"}, "cloak": "C", "left_out": {}, "seconds": 2.0, "flags": flags}
    return {"photos": photos, "recognisers": [recogniser], **about}


def test_means_are_over_persons() -> None:
    (row,) = own_photos.summary([told((0.0, 80.0), 0.5, 0.7), told((10.0, 100.0), 0.9)])
    assert row["cosine_before"]["value"] == pytest.approx((0.6 + 0.9) / 2)
    assert row["top1_before"]["value"] == 5
    assert row["top1_after"]["value"] == 90
    assert 80 <= row["top1_after"]["low"] <= 90 <= row["top1_after"]["high"] <= 100
    assert row["top5_after"]["value"] == 45


def test_paths_are_left_out() -> None:
    plain = own_photos.without_folders
    assert plain("onnx:/home/me/x.onnx,mean=1/2/3,name=A/B") == "onnx:x.onnx,mean=1/2/3,name=A/B"
    assert plain(["folder:../faces/mine", "runs/a+/b/c", 3, None]) == ["folder:mine", "a+c", 3, None]


def test_what_was_measured_is_taken_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        kept = tmp_path / "out.persons" / f"{name}.json"
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(told((0.0, 80.0), 0.5)))
    arguments = [str(tmp_path / "photos"), "--out", str(tmp_path / "out.json"), "--"]
    assert own_photos.main([*arguments, *FLAGS]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["persons"], found["photos"], found["protect"]) == (2, 2, {"cloak": "person"})
    assert "80.0 [80.0, 80.0]" in capsys.readouterr().out
    assert own_photos.main([*arguments, *FLAGS, "--norm", "600"]) == 2
    assert "was measured with other flags" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [([], "--targets and --distractors are needed"), (FLAGS, "holds no folder of photos")],
)
def test_what_cannot_be_measured_is_told(
    tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        own_photos.main([str(tmp_path), "--out", str(tmp_path / "out.json"), "--", *flags])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
