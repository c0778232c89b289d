"""The presets: valid, complete, and honest about what they change."""

import dataclasses

import pytest

from advcloak_jax import presets
from advcloak_jax.config import ImageConfig, PersonConfig
from advcloak_jax.errors import UserError
from advcloak_jax.training.runs import JOBS


@pytest.mark.parametrize("preset", ["fast", "demo"])
@pytest.mark.parametrize("job", JOBS)
def test_a_preset_is_valid_and_says_all_it_changes(job: str, preset: str) -> None:
    kind, asked = JOBS[job], presets.PRESETS[preset].get(job, {})
    found = presets.settings(job, kind, preset)
    told = {name: now for name, _, now in presets.changes(found)}
    for name, value in asked.items():
        if name not in ("data", "split"):
            assert told.get(name, getattr(kind(), name)) == value
    assert ("split.protected" in told) == ("split" in asked)


def test_the_people_of_fast_are_enough() -> None:
    (data,) = presets.FAST["recognizer"]["data"]
    persons = int(data.removeprefix("synthetic:").split("x")[0])
    split = presets.FAST_SPLIT
    assert split.protected + split.generator + split.validation + split.surrogate + split.target < persons


@pytest.mark.parametrize("job", JOBS)
def test_paper_is_the_classes_own(job: str) -> None:
    assert presets.settings(job, JOBS[job], "paper") == JOBS[job]()
    assert presets.changes(JOBS[job]()) == []


def test_paper_has_the_published_figures() -> None:
    one, two = ImageConfig(), PersonConfig()
    assert (one.batch, one.epochs, one.images, one.learning_rate) == (32, 100, 50_000, 1e-4)
    assert (one.lambda_norm, one.lambda_adversarial, one.norm_floor, one.beta1, one.beta2) == (1, 10, 3, 0.5, 0.9)
    assert (two.persons * two.split.generator_images, two.epochs, two.warmup_epochs) == (32, 100, 40)
    assert (two.learning_rate, two.lambda_norm, two.lambda_adversarial, two.split.generator) == (2e-8, 1, 15, 3000)
    assert (one.generator_width, one.discriminator_width, one.image_size) == (64, 32, 112)


def test_a_changed_part_of_the_split_is_told_by_its_flag() -> None:
    split = dataclasses.replace(ImageConfig().split, protected=3)
    assert presets.changes(ImageConfig(split=split)) == [("split.protected", 500, 3)]


def test_where_things_lie_is_no_change() -> None:
    assert presets.changes(ImageConfig(run="x", surrogate="y", data=("folder:z",), cache="c", keep=9)) == []


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(UserError, match=r"--preset quick .*paper, fast, demo"):
        presets.settings("image", ImageConfig, "quick")
