"""LowKey (Cherepanova et al., ICLR 2021): every image away from its features, but not from its looks.

Signed gradient ascent on the mean over the surrogates f of

    mean_d (f(x') - f(x))^2 / ||f(x)||  and the same with f(blur(x')),  less  weight * perceptual distance(x, x')

with the features as the network gives them, not normalised; no box limits the change, which is clipped to valid pixels
at the end alone (both as in the released code).

The published perceptual distance is LPIPS with AlexNet (`lpips.py`), whose weights the user has to bring. Without them
another distance stands in its place: LPIPS' own formula (feature maps of unit length across channels, squared
differences, summed over the maps, averaged over the pixels) on the first feature maps of the surrogates, all channels
weighted alike. That is not LPIPS, it was never fitted to human judgement, and masks differ from the published ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax.cloaks import blocks, lpips
from advcloak_jax.cloaks.blocks import Attack, Surrogates
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.cloaks.lpips import Lpips
from advcloak_jax.config.cloaks import LowKeySettings
from advcloak_jax.recognizers.feature_maps import first_maps
from advcloak_jax.recognizers.recognizer import Recognizer


class Context(NamedTuple):
    """What stays: the originals' features [B, d] by every surrogate, and LPIPS' network, if it is there."""

    features: list[jax.Array]
    network: Lpips | None


class State(NamedTuple):
    """originals and adversarial images, each [B, 1, H, W, C]."""

    originals: jax.Array
    adversarial: jax.Array


def gaussian(size: int, sigma: float) -> np.ndarray:
    """Weights [size] of a Gaussian window, sum 1."""
    offsets = np.arange(size) - size // 2
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return (weights / weights.sum()).astype(np.float32)


def blur(images: jax.Array, size: int, sigma: float) -> jax.Array:
    """Images [B, H, W, C] smoothed by a Gaussian window of `size` pixels a side, the borders mirrored."""
    reach = size // 2
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    weights = gaussian(size, sigma)
    height, width = images.shape[1:3]
    rows = sum(weight * padded[:, i : i + height] for i, weight in enumerate(weights))
    assert isinstance(rows, jax.Array)
    smoothed = sum(weight * rows[:, :, i : i + width] for i, weight in enumerate(weights))
    assert isinstance(smoothed, jax.Array)
    return smoothed


def perceptual_distance(recognizer: Recognizer, originals: jax.Array, images: jax.Array, maps: int) -> jax.Array:
    """How different images [B, H, W, C] look from their originals, [B]: LPIPS' formula on a recogniser's first maps.

    Originals and images go through the network apart: on the halves of one batch XLA's CPU backend (jaxlib 0.10.2)
    makes, at some sizes, a program that crashes the process; without its fusion for YNNPACK it does not.
    """
    total = jnp.zeros(len(images))
    pairs = zip(first_maps(recognizer, originals, maps), first_maps(recognizer, images, maps), strict=True)
    for before, after in pairs:
        total += jnp.mean(jnp.sum(jnp.square(lpips.unit_channels(after) - lpips.unit_channels(before)), -1), (1, 2))
    return total


def _features(recognizer: Recognizer, images: jax.Array) -> jax.Array:
    """Features [B, d] as the network gives them."""
    made: jax.Array = recognizer.module.apply(recognizer.variables, images, train=False)  # type: ignore[assignment]
    return made.astype(jnp.float32)


def begin(
    surrogates: Surrogates, faces: jax.Array, noise: jax.Array, network: Lpips | None = None
) -> tuple[Context, State]:
    """What stays, and the state before the first step: images [B, 1, H, W, C] under noise."""
    features = [_features(surrogate, faces[:, 0]) for surrogate in surrogates]
    return Context(features, network), State(faces, faces + noise)


def attack(settings: LowKeySettings, network: Lpips | None = None) -> Attack:
    """The steps of one block of images, each a person of its own: faces [B, 1, H, W, C]. network: for LPIPS."""
    noise, step_size = settings.noise / 255, settings.step_size / 255

    def start(surrogates: Surrogates, faces: jax.Array, keys: jax.Array) -> tuple[Context, State]:
        shape = faces.shape[1:]
        drawn = jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32, minval=-noise, maxval=noise))(keys)
        return begin(surrogates, faces, drawn, network)

    def step(surrogates: Surrogates, faces: jax.Array, context: Context, state: State, number: jax.Array) -> State:
        def looks(surrogate: Recognizer, adversarial: jax.Array) -> jax.Array:
            if context.network is None:
                return perceptual_distance(surrogate, faces[:, 0], adversarial, settings.perceptual_maps)
            return lpips.distance(context.network, faces[:, 0], adversarial)

        def gain(adversarial: jax.Array) -> jax.Array:
            both = jnp.concatenate([adversarial, blur(adversarial, settings.blur_size, settings.blur_sigma)])
            values = []
            for surrogate, known in zip(surrogates, context.features, strict=True):
                found = _features(surrogate, both).reshape(2, *known.shape)
                squares = jnp.mean(jnp.square(found - known), -1)
                away = jnp.mean(squares / jnp.linalg.norm(known, axis=-1), 0)
                values.append(away - settings.perceptual_weight * looks(surrogate, adversarial))
            return jnp.sum(jnp.stack(values)) / len(values)

        moved = state.adversarial + step_size * jnp.sign(jax.grad(gain)(state.adversarial[:, 0]))[:, None]
        return State(state.originals, moved)

    return Attack(
        settings.steps, start, step, lambda state: (jnp.clip(state.adversarial, 0, 1) - state.originals)[:, 0]
    )


def lowkey(name: str, surrogates: Sequence[Recognizer], settings: LowKeySettings) -> Cloak:
    """LowKey masks, one per image. Raises UserError when the files of LPIPS cannot be read."""
    network = lpips.read(Path(settings.alexnet), Path(settings.lpips)) if settings.alexnet else None
    run = blocks.runner(attack(settings, network), surrogates)

    def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
        images = faces.reshape(-1, 1, *faces.shape[2:])
        return run(images, blocks.person_keys(key, len(images))).reshape(faces.shape)

    return Cloak(name, "image", make_masks)
