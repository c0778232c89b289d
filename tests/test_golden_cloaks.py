"""Masks agree with the published algorithms, run one person at a time by PyTorch and cvxpy (golden/make_cloaks.py).

A sign that rounding turns moves a pixel by a whole step, and its network's next gradient with it: so masks agree in
direction, not bit by bit.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import cloak_inputs as given
from state_dicts import filled

from advcloak_jax.cloaks import aggregated, blocks, gradient, lowkey
from advcloak_jax.cloaks.methods import parse
from advcloak_jax.cloaks.objectives import Kind
from advcloak_jax.config.cloaks import AggregationSettings, DropoutSettings, LowKeySettings
from advcloak_jax.recognizers import feature_maps
from advcloak_jax.recognizers.iresnet import IResNet
from advcloak_jax.recognizers.recognizer import Recognizer
from advcloak_jax.recognizers.torch_names.iresnet import iresnet_layers

pytestmark = pytest.mark.usefixtures("compile_quickly")

GOLDEN = Path(__file__).parent / "golden"
EPSILON = 8.0
SUBSPACES: dict[str, Kind] = {
    "fi-uap": "plain",
    "fi-uap-plus": "all-pairs",
    "opom-affine-hull": "affine-hull",
    "opom-class-centre": "class-centre",
    "opom-convex-hull": "convex-hull",
}
KEYS = jax.vmap(jax.random.key)(jnp.arange(given.PERSONS))


@pytest.fixture(scope="module")
def surrogate() -> Recognizer:
    module = IResNet(units=given.UNITS, width=0.25, embedding_size=given.EMBEDDING, dropout=0.0)
    return Recognizer(module, filled(module, given.SIZE, iresnet_layers(given.UNITS)))


def agreement(found: jax.Array, name: str) -> float:
    """Smallest cosine of a mask [..., H, W, C] to its reference."""
    expected = np.load(GOLDEN / "cloaks.npz")[name].astype(np.float32)
    a, b = np.asarray(found).reshape(len(expected), -1), expected.reshape(len(expected), -1)
    np.testing.assert_allclose(np.abs(a).max(-1), np.abs(b).max(-1), rtol=0.05)
    return float(((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min())


def masks_of(kind: Kind, settings: Any, surrogate: Recognizer, faces: np.ndarray, noise: np.ndarray) -> jax.Array:
    """Masks of persons with faces [P, N, H, W, C] from the start `noise`."""
    objective = gradient.objective_of(kind, settings)

    def start(surrogates: Any, faces: jax.Array, keys: jax.Array, noise: jax.Array) -> Any:
        has_momentum = isinstance(settings, DropoutSettings)
        return gradient.begin(objective, surrogates, faces, keys, noise, has_momentum=has_momentum)

    attack = dataclasses.replace(gradient.attack(objective, settings), start=start)
    keys = jax.vmap(jax.random.key)(jnp.arange(len(faces)))
    return blocks.runner(attack, [surrogate])(jnp.asarray(faces), keys, jnp.asarray(noise))


@pytest.mark.parametrize("name", SUBSPACES)
def test_steps_along_the_sign_of_the_mean_gradient(name: str, surrogate: Recognizer) -> None:
    settings = parse(f"{name}:steps={given.STEPS}")[1]
    found = masks_of(SUBSPACES[name], settings, surrogate, given.faces(), given.noise(EPSILON))
    assert agreement(found, name) >= 0.99


@pytest.mark.parametrize(
    "name",
    [name if name == "opom-affine-hull" else pytest.param(name, marks=pytest.mark.slow) for name in SUBSPACES],
)
def test_steps_along_the_signs_of_summed_gradients(name: str, surrogate: Recognizer) -> None:
    settings = parse(f"{name}-dfanet:dropout=0,steps={given.MOMENTUM_STEPS}")[1]
    found = masks_of(SUBSPACES[name], settings, surrogate, given.faces(), given.noise(EPSILON))
    assert agreement(found, f"{name}-dfanet") >= 0.99


def test_dropout_of_the_feature_maps(surrogate: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def stored(keys: jax.Array, rate: float) -> Callable[[jax.Array], jax.Array]:
        nonlocal calls
        call, number = calls, 0
        calls += 1

        def change(values: jax.Array) -> jax.Array:
            nonlocal number
            kept = given.kept(call, number, values.shape)
            number += 1
            return jnp.where(kept, values / (1 - rate), 0)

        return change

    monkeypatch.setattr(feature_maps, "dropout", stored)
    settings = parse(f"opom-convex-hull-dfanet:steps={given.MOMENTUM_STEPS}")[1]
    found = masks_of("convex-hull", settings, surrogate, given.faces(), given.noise(EPSILON))
    assert calls == 2
    assert agreement(found, "dropout") >= 0.99


def test_fim_is_per_image(surrogate: Recognizer) -> None:
    faces, noise = given.faces()[:, :2], given.noise(EPSILON)[:, :2]
    flat = (-1, 1, *faces.shape[2:])
    settings = parse(f"fim:steps={given.STEPS}")[1]
    found = masks_of("plain", settings, surrogate, faces.reshape(flat), noise.reshape(flat))
    assert agreement(found, "fim") >= 0.99


def test_sga(surrogate: Recognizer) -> None:
    settings = AggregationSettings(steps=given.SGA_STEPS, minibatch=given.MINIBATCH, rounds=given.ROUNDS)
    table = jnp.asarray(given.draws())

    def draw(key: jax.Array, number: jax.Array, images: int, size: int) -> jax.Array:
        return table[number, jax.random.key_data(key)[1]]

    def start(surrogates: Any, faces: jax.Array, keys: jax.Array, masks: jax.Array) -> Any:
        return aggregated.begin(surrogates, faces, keys, masks, "plain")

    attack = dataclasses.replace(aggregated.attack(settings, given.PER_PERSON, draw), start=start)
    noise = jnp.asarray(given.noise(EPSILON, per_image=False))
    found = blocks.runner(attack, [surrogate])(jnp.asarray(given.faces()), KEYS, noise)
    assert agreement(found, "sga-uap") >= 0.99


def test_lowkey(surrogate: Recognizer) -> None:
    attack = lowkey.attack(LowKeySettings(steps=given.LOWKEY_STEPS))
    attack = dataclasses.replace(attack, start=lambda s, faces, keys, noise: lowkey.begin(s, faces, noise))
    faces, noise = (
        values[:, :2].reshape(-1, 1, given.SIZE, given.SIZE, 3) for values in (given.faces(), given.noise(1.275))
    )
    found = blocks.runner(attack, [surrogate])(
        jnp.asarray(faces), jax.vmap(jax.random.key)(jnp.arange(4)), jnp.asarray(noise)
    )
    assert agreement(found, "lowkey") >= 0.99
