"""Anybody's Python function as a black box."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.callable_target import CallableTarget, load_callable
from advcloak_jax.jobs.targets import load_target


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


def means(images: np.ndarray) -> np.ndarray:
    return images.mean((1, 2))


def test_blocks_are_joined_and_normalised() -> None:
    seen = []

    def function(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        answer = means(images)
        images[:] = 0  # what it does to its input is nobody else's
        return answer

    images = faces(5)
    before = images.copy()
    embeddings = CallableTarget("mine", function, batch=2).embed(images)
    expected = means(before) / np.linalg.norm(means(before), axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-6)
    assert seen == [2, 2, 1]
    np.testing.assert_array_equal(images, before)
    assert embeddings.dtype == np.float32


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: images, r"should give embeddings \[3, d\], not \[3, 8, 8, 3\]"),
        (lambda images: means(images)[:2], r"not \[2, 3\]"),
        (lambda images: means(images) * math.nan, "not finite"),
        (lambda images: "what", "should give an array"),
        (lambda images: means(images) * [[1], [0], [1]], "mine gave only zeros for 1 of 3 faces"),
    ],
)
def test_bad_answers_are_told(function: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CallableTarget("mine", function).embed(faces(3))  # type: ignore[arg-type]


def test_a_function_does_not_end_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"mine asked to end the process \(status 0\)"):
        CallableTarget("mine", lambda images: sys.exit(0)).embed(faces(3))
    (tmp_path / "black_box_that_exits.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="importing black_box_that_exits asks to end the process"):
        load_callable("python:black_box_that_exits:embed")


def test_lengths_must_not_change() -> None:
    with pytest.raises(UserError, match="different lengths"):
        CallableTarget("mine", lambda images: np.ones((len(images), len(images))), batch=2).embed(faces(3))


def test_import_path_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "black_box_of_mine.py").write_text("def embed(images):\n    return images.mean((1, 2))\nnumber = 3\n")
    monkeypatch.chdir(tmp_path)
    loaded = load_target("python:black_box_of_mine:embed,name=Mine,batch=2")
    assert (loaded.target.name, loaded.folder, loaded.image_size) == ("Mine", None, None)
    assert loaded.target.embed(faces(3)).shape == (3, 3)
    assert load_callable("python:black_box_of_mine:embed").name == "black_box_of_mine:embed"
    for spec, message in (
        ("python:black_box_of_mine", "should read python:MODULE:FUNCTION"),
        ("python:black_box_of_yours:embed", "cannot import black_box_of_yours"),
        ("python:black_box_of_mine:number", "has no function number"),
        ("python:black_box_of_mine:embed,size=3", "is no option"),
        ("python:black_box_of_mine:embed,batch=0", "whole number above 0"),
        ("python:black_box_of_mine:embed,batch=²", "whole number above 0"),
    ):
        with pytest.raises(UserError, match=message):
            load_callable(spec)
