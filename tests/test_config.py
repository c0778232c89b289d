"""Every setting explains itself, and every bad one is refused by the name of its flag."""

import ast
import dataclasses
import inspect
import itertools
from typing import Any

import pytest

from advcloak_jax import config
from advcloak_jax.config import (
    AblationConfig,
    ImageConfig,
    PersonConfig,
    RecognizerConfig,
    SplitConfig,
    TableConfig,
    VerifyConfig,
)
from advcloak_jax.errors import UserError

KINDS = (SplitConfig, RecognizerConfig, ImageConfig, PersonConfig, TableConfig, VerifyConfig)


def explained(kind: type) -> set[str]:
    """Fields of one class that a docstring follows."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        before.target.id
        for before, after in itertools.pairwise(body.body)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_help_text(kind: type) -> None:
    """Its own, or that of the class it is inherited from."""
    texts = set().union(*(explained(base) for base in kind.__mro__ if dataclasses.is_dataclass(base)))
    assert {field.name for field in dataclasses.fields(kind)} <= texts


@pytest.mark.parametrize(
    ("kind", "name", "value", "flag"),
    [
        (SplitConfig, "protected", 0, "--split.protected"),
        (SplitConfig, "n_test", 1, "--split.n-test"),
        (SplitConfig, "generator_images", 0, "--split.generator-images"),
        (SplitConfig, "target", -1, "--split.target"),
        (ImageConfig, "image_size", 30, "--image-size"),
        (ImageConfig, "image_size", 114, "--image-size 114"),
        (ImageConfig, "steps", -1, "--steps"),
        (ImageConfig, "epochs", 0.0, "--epochs"),
        (ImageConfig, "learning_rate", 0.0, "--learning-rate"),
        (ImageConfig, "learning_rate", float("nan"), "--learning-rate"),
        (ImageConfig, "learning_rate", float("inf"), "--learning-rate"),
        (ImageConfig, "epochs", float("inf"), "--epochs"),
        (ImageConfig, "batch", 0, "--batch"),
        (ImageConfig, "steps_per_dispatch", 0, "--steps-per-dispatch"),
        (ImageConfig, "log_every", 15, "--log-every must be a multiple of --steps-per-dispatch 10"),
        (ImageConfig, "checkpoint_every", 5, "--checkpoint-every"),
        (ImageConfig, "keep", 0, "--keep"),
        (ImageConfig, "devices", -1, "--devices"),
        (ImageConfig, "images", 0, "--images"),
        (ImageConfig, "generator_width", 0, "--generator-width"),
        (ImageConfig, "lambda_adversarial", -1.0, "--lambda-adversarial"),
        (ImageConfig, "beta2", 1.0, "--beta2"),
        (PersonConfig, "persons", 0, "--persons"),
        (PersonConfig, "warmup_epochs", -1.0, "--warmup-epochs"),
        (PersonConfig, "projection_iterations", 0, "--projection-iterations"),
        (PersonConfig, "lower", 2.0, "--lower 2.0"),
        (RecognizerConfig, "width", 0.0, "--width"),
        (RecognizerConfig, "dropout", 1.0, "--dropout"),
        (RecognizerConfig, "momentum", 1.0, "--momentum"),
        (RecognizerConfig, "margin_scale", 0.0, "--margin-scale"),
        (RecognizerConfig, "weight_decay", -1.0, "--weight-decay"),
        (TableConfig, "targets", (), "--targets"),
        (TableConfig, "surrogates", ("a",), "--surrogates is for --methods"),
        (TableConfig, "norm", 0.0, "--norm"),
        (TableConfig, "timed", -1, "--timed"),
        (TableConfig, "image_size", 30, "--image-size"),
        (AblationConfig, "norms", (300.0, 300.0), "--norms must rise"),
        (AblationConfig, "n_inference", (0, 1), "--n-inference must be more than 0"),
        (TableConfig, "bootstrap", 1, "--bootstrap"),
        (VerifyConfig, "same", 0, "--same"),
    ],
)
def test_a_value_out_of_range_names_its_flag(kind: type, name: str, value: Any, flag: str) -> None:
    with pytest.raises(UserError, match="^" + flag.replace(".", r"\.")) as raised:
        kind(**{name: value})
    assert str(raised.value).endswith(".")


def test_the_trained_cloaks_are_the_default_folders_only_when_nothing_is_named() -> None:
    assert TableConfig().runs == ("runs/image", "runs/person")
    assert TableConfig(methods=("fi-uap",), surrogates=("a",)).runs == ()
    assert TableConfig(methods=("fi-uap",), cloaks=("b",)).runs == ("b",)
    with pytest.raises(UserError, match="--data is given by the runs of --cloaks"):
        TableConfig(cloaks=("a",), data=("folder:x",))


def test_flag() -> None:
    assert config.flag("steps_per_dispatch") == "--steps-per-dispatch"
