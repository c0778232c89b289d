"""The list of methods: names, published defaults, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_training as small

from advcloak_jax.cloaks import methods
from advcloak_jax.config.cloaks import AttackSettings, DropoutHullSettings, HullSettings
from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.recognizer import Recognizer

# What dropout adds is tested by itself; here its variants would cost as much as all others.
ALL = [
    pytest.param(name, marks=pytest.mark.slow) if name.endswith("-dfanet") else name
    for name in methods.names()
    if name != "hybrid"
]


def test_published_defaults() -> None:
    opom = methods.method("opom-convex-hull").settings()
    assert (opom.steps, opom.epsilon, opom.step_size, opom.warmup_steps, opom.lower, opom.upper) == (16, 8, 1, 5, 0, 1)
    dfanet = methods.method("opom-convex-hull-dfanet").settings()
    assert (dfanet.steps, dfanet.epsilon, dfanet.step_size, dfanet.dropout, dfanet.warmup_steps) == (100, 8, 1, 0.1, 5)


def test_names_are_unique_and_settings_have_defaults() -> None:
    assert len(set(methods.names())) == len(methods.names())
    for name in methods.names():
        found, settings = methods.parse(name)
        assert (found.name, settings) == (name, found.settings())
        assert dataclasses.is_dataclass(settings)


def test_settings_are_typed() -> None:
    assert methods.parse("fi-uap:steps=32, epsilon=4")[1] == AttackSettings(steps=32, epsilon=4.0)
    assert methods.parse("opom-convex-hull:warmup-steps=2")[1] == HullSettings(warmup_steps=2)
    assert methods.parse("opom-convex-hull-dfanet:normaliser=image")[1] == DropoutHullSettings(normaliser="image")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fi-uapp", "did you mean 'fi-uap'"),
        ("nope", "there is no method 'nope'; the methods are fim, lowkey, "),
        ("opom-convexhull", "did you mean 'opom-convex-hull'"),
        ("fi-uap:step=3", "no setting 'step': did you mean 'steps'"),
        ("fi-uap:steps=3.5", "steps must be a whole number, not '3.5'"),
        ("fi-uap:epsilon=much", "epsilon must be a number"),
        ("fi-uap:epsilon=nan", "must be a finite number"),
        ("fi-uap:step_size=1e300", r"step_size=1e\+300 must be a finite number"),
        ("opom-convex-hull:epsilon=256", "at most 255"),
        ("lowkey:noise=inf", "noise=inf must be a finite number"),
        ("hybrid:start=x,norm=1e39", r"norm=1e\+39 must be a finite number"),
        ("fi-uap:steps=99999999999", "must be within 2147483647"),
        ("fi-uap:steps", "write setting=value"),
        ("fi-uap:steps=1,steps=2", "twice"),
        ("fi-uap:steps=0", "between 1 and 100000"),
        ("hybrid:start=x,steps=200000", "between 1 and 100000"),
        ("lowkey:blur_size=8", "must be odd, between 1 and 255"),
        ("lowkey:blur_size=100001", "must be odd, between 1 and 255"),
        ("fi-uap:warmup_steps=1", "no setting 'warmup_steps'"),
        ("opom-convex-hull:lower=2,upper=1", "must not exceed"),
        ("fi-uap-dfanet:dropout=1", r"in \[0, 1\)"),
        ("fi-uap-dfanet:normaliser=row", "one of column, image"),
    ],
)
def test_bad_text_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        methods.parse(text)


@pytest.mark.parametrize("name", ALL)
def test_every_method_makes_masks_of_its_kind_in_its_box(name: str) -> None:
    data = small.make_data()
    found, settings = methods.parse(f"{name}:steps=2" + ("" if name == "lowkey" else ",epsilon=3"))
    largest = (1.275 + 2 * 0.6375) if name == "lowkey" else 3
    cloak = found.build([Recognizer(small.SmallRecognizer(), data.surrogate)], settings)
    masks = np.asarray(cloak.make_masks(data.faces[:2, :3], jax.random.key(1)))
    assert (cloak.name, cloak.kind) == (found.title, found.kind)
    assert masks.shape == {"person": (2, 16, 16, 3), "image": (2, 3, 16, 16, 3)}[found.kind]
    assert 0.5 / 255 < np.abs(masks).max() <= 1.0001 * largest / 255
    again = cloak.make_masks(jnp.asarray(data.faces[:2, :3]), jax.random.key(1))
    np.testing.assert_array_equal(masks, again)
    assert not np.array_equal(masks, cloak.make_masks(data.faces[:2, :3], jax.random.key(2)))


def test_a_hybrid_without_a_start_is_refused() -> None:
    found, settings = methods.parse("hybrid:start=runs/person,steps=2")
    assert settings.start == "runs/person"
    with pytest.raises(UserError, match="hybrid:start=RUN"):
        found.build([], settings)
