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
from golden.fill import tensor
from safetensors.numpy import save_file
from state_dicts import filled

from advcloak_jax.cloaks import aggregated, blocks, gradient, lowkey, lpips
from advcloak_jax.cloaks.methods import parse
from advcloak_jax.cloaks.objectives import Kind
from advcloak_jax.config.cloaks import AggregationSettings, DropoutSettings, LowKeySettings
from advcloak_jax.errors import UserError
from advcloak_jax.recognizers import feature_maps
from advcloak_jax.recognizers.iresnet import IResNet
from advcloak_jax.recognizers.recognizer import Recognizer
from advcloak_jax.recognizers.torch_names.iresnet import iresnet_layers

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


def lowkey_masks(surrogate: Recognizer, network: lpips.Lpips | None) -> jax.Array:
    """Masks of two images of each person from the start that the golden masks had."""
    attack = lowkey.attack(LowKeySettings(steps=given.LOWKEY_STEPS))
    attack = dataclasses.replace(attack, start=lambda s, faces, keys, noise: lowkey.begin(s, faces, noise, network))
    faces, noise = (
        values[:, :2].reshape(-1, 1, given.SIZE, given.SIZE, 3) for values in (given.faces(), given.noise(1.275))
    )
    return blocks.runner(attack, [surrogate])(
        jnp.asarray(faces), jax.vmap(jax.random.key)(jnp.arange(4)), jnp.asarray(noise)
    )


def test_lowkey(surrogate: Recognizer) -> None:
    assert agreement(lowkey_masks(surrogate, None), "lowkey") >= 0.99


@pytest.fixture(scope="module")
def lpips_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """AlexNet and LPIPS' linear layers as files, with the golden script's weights."""
    folder = tmp_path_factory.mktemp("lpips")
    shapes = {"0": (64, 3, 11, 11), "3": (192, 64, 5, 5), "6": (384, 192, 3, 3), "8": (256, 384, 3, 3)}
    backbone = {}
    for number, shape in {**shapes, "10": (256, 256, 3, 3)}.items():
        for name, of in ((f"features.{number}.weight", shape), (f"features.{number}.bias", shape[:1])):
            backbone[name] = tensor(name, of)
    channels = enumerate((64, 192, 384, 256, 256))
    heads = {f"lin{place}.model.1.weight": given.head(place, (1, count, 1, 1)) for place, count in channels}
    save_file({**backbone, "classifier.1.weight": np.zeros((2, 2), np.float32)}, folder / "alexnet.safetensors")
    save_file(heads, folder / "heads.safetensors")
    save_file(backbone, folder / "convolutions.safetensors")
    save_file({**heads, "lin4.model.1.weight": np.zeros((1, 3, 1, 1), np.float32)}, folder / "misshapen.safetensors")
    return folder / "alexnet.safetensors", folder / "heads.safetensors"


def test_lpips(lpips_files: tuple[Path, Path]) -> None:
    """The distance of images to others, whichever names the file of the backbone has."""
    faces = jnp.asarray(given.faces().reshape(-1, given.SIZE, given.SIZE, 3))
    expected = np.load(GOLDEN / "cloaks.npz")["lpips"]
    for alexnet in (lpips_files[0], lpips_files[0].with_name("convolutions.safetensors")):
        found = lpips.distance(lpips.read(alexnet, lpips_files[1]), faces, faces[::-1])
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_lowkey_with_lpips(surrogate: Recognizer, lpips_files: tuple[Path, Path]) -> None:
    found = lowkey_masks(surrogate, lpips.read(*lpips_files))
    assert agreement(found, "lowkey-lpips") >= 0.99
    with pytest.raises(AssertionError):  # and the perceptual distance matters
        assert agreement(found, "lowkey") >= 0.99


def test_lowkey_reads_the_files_of_lpips(surrogate: Recognizer, lpips_files: tuple[Path, Path]) -> None:
    alexnet, heads = lpips_files
    method, settings = parse(f"lowkey:steps=1,alexnet={alexnet},lpips={heads}")
    cloak = method.build([surrogate], settings)
    assert cloak.name == "LowKey (LPIPS)"
    faces = jnp.asarray(given.faces()[:1, :1])
    assert cloak.make_masks(faces, jax.random.key(0)).shape == faces.shape
    for first, second, said in [
        (alexnet, heads.with_name("misshapen.safetensors"), r"misshapen.safetensors has 'lin4.model.1.weight'"),
        (heads, heads, r"heads.safetensors lacks the tensor 'features.0.weight'"),
        (alexnet.with_name("none.pth"), heads, r"none.pth"),
    ]:
        with pytest.raises(UserError, match=said):
            method.build([surrogate], dataclasses.replace(settings, alexnet=str(first), lpips=str(second)))
    with pytest.raises(UserError, match="give both or none"):
        parse(f"lowkey:alexnet={alexnet}")
