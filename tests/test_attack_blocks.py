"""Many persons at once: the same masks as one at a time, whatever the block, the loop, the neighbours."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_training as small

from advcloak_jax.cloaks import aggregated, blocks, gradient, lowkey, objectives
from advcloak_jax.cloaks.methods import parse
from advcloak_jax.config.cloaks import AggregationSettings, AttackSettings, LowKeySettings
from advcloak_jax.recognizers.recognizer import Recognizer

STEPS = 3


@pytest.fixture(scope="module")
def data() -> small.Data:
    return small.make_data()


@pytest.fixture(scope="module")
def surrogate(data: small.Data) -> Recognizer:
    return Recognizer(small.SmallRecognizer(), data.surrogate)


def attack(name: str) -> blocks.Attack:
    if name == "sga-uap":
        return aggregated.attack(AggregationSettings(steps=STEPS, rounds=1), small.PER_PERSON)
    if name == "lowkey":
        return lowkey.attack(LowKeySettings(steps=STEPS, perceptual_weight=0.0))
    kinds: dict[str, objectives.Kind] = {"fi-uap": "plain", "opom-convex-hull": "convex-hull"}
    settings = parse(f"{name}:steps={STEPS}" + (",warmup_steps=1" if "hull" in name else ""))[1]
    kind = kinds[name.removesuffix("-dfanet")]
    return gradient.attack(gradient.objective_of(kind, settings), settings)


def faces_for(name: str, data: small.Data) -> jax.Array:
    """Persons [P, N, H, W, 3], or images as persons of one where the method is per image."""
    return data.faces[:, :1] if name == "lowkey" else data.faces


METHODS = ["fi-uap", "opom-convex-hull-dfanet", "sga-uap", "lowkey"]


@pytest.mark.parametrize("name", METHODS)
def test_blocks_padding_and_the_loop_change_nothing(name: str, data: small.Data, surrogate: Recognizer) -> None:
    faces = faces_for(name, data)
    keys = blocks.person_keys(jax.random.key(4), len(faces))
    together = blocks.runner(attack(name), [surrogate], looped=True)(faces, keys)
    # Blocks of two of three persons: the second one is filled up with the last.
    padded = blocks.runner(attack(name), [surrogate], looped=False, at_a_time=2 * faces.shape[1])
    np.testing.assert_allclose(padded(faces[:3], keys[:3]), together[:3], atol=1e-7)
    alone = jnp.concatenate([padded(faces[p : p + 1], keys[p : p + 1]) for p in range(len(faces))])
    np.testing.assert_allclose(alone, together, atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
def test_a_person_that_is_no_number_stays_by_itself(name: str, data: small.Data, surrogate: Recognizer) -> None:
    faces = faces_for(name, data)
    keys = blocks.person_keys(jax.random.key(4), len(faces))
    run = blocks.runner(attack(name), [surrogate])
    masks = np.asarray(run(faces, keys))
    broken = np.asarray(run(faces.at[1].set(jnp.nan), keys))
    assert np.isfinite(masks).all()
    assert not np.array_equal(broken[1], masks[1])
    np.testing.assert_array_equal(np.delete(broken, 1, 0), np.delete(masks, 1, 0))


def test_blocks_are_compiled_once(data: small.Data, surrogate: Recognizer) -> None:
    traced = 0
    inner = attack("fi-uap")

    def step(*arguments: Any) -> Any:
        nonlocal traced
        traced += 1
        return inner.step(*arguments)

    counted = blocks.Attack(inner.steps, inner.start, step, inner.masks)
    keys = blocks.person_keys(jax.random.key(4), small.PERSONS)
    run = blocks.runner(counted, [surrogate], looped=False, at_a_time=2 * small.PER_PERSON)
    run(data.faces, keys)  # two blocks of two
    run(data.faces[:3], keys[:3])  # and the second one filled up
    assert traced == 1


@pytest.mark.parametrize("looped", [True, False])
def test_surrogates_of_one_network_share_programs(
    data: small.Data, surrogate: Recognizer, looped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own variables; other settings are another program."""
    traced = 0

    def counted(*arguments: Any) -> Any:
        nonlocal traced
        traced += 1
        return gradients(*arguments)

    gradients = objectives.gradients
    monkeypatch.setattr(objectives, "gradients", counted)
    other = Recognizer(small.SmallRecognizer(), jax.tree.map(lambda leaf: leaf[::-1], data.surrogate))
    keys = blocks.person_keys(jax.random.key(4), small.PERSONS)
    masks = [
        blocks.runner(
            gradient.attack(objectives.Objective(), AttackSettings(steps=2, epsilon=epsilon)), [one], looped=looped
        )(data.faces, keys)
        for one, epsilon in ((surrogate, 9.0), (other, 9.0), (surrogate, 7.0))
    ]
    assert traced == 2
    assert not np.array_equal(masks[0], masks[1])
    assert [round(float(jnp.abs(mask).max()) * 255, 3) for mask in masks] == [9.0, 9.0, 7.0]


def test_a_block_is_as_many_persons_as_fit() -> None:
    assert blocks.persons_at_a_time(100, 10, 128) == 12
    assert blocks.persons_at_a_time(5, 10, 128) == 5
    assert blocks.persons_at_a_time(13, 10, 128) == 7  # two of 7, not one of 12 and one nearly empty
    assert blocks.persons_at_a_time(100, 300, 128) == 1


def test_several_surrogates_are_attacked_by_the_mean_of_their_losses(data: small.Data, surrogate: Recognizer) -> None:
    module = small.SmallRecognizer()
    other = Recognizer(module, module.init(jax.random.key(9), data.faces[0], train=False))
    objective = objectives.Objective("class-centre")
    adversarial = jnp.clip(data.faces + 0.02, 0, 1)

    def gradients(*surrogates: Recognizer) -> np.ndarray:
        known = objectives.describe(objective, surrogates, data.faces, None)
        return np.asarray(objectives.gradients(objective, surrogates, known, adversarial, jnp.int32(0), None))

    mean = (gradients(surrogate) + gradients(other)) / 2
    np.testing.assert_allclose(gradients(surrogate, other), mean, atol=1e-7 + 1e-5 * np.abs(mean).max())
    assert np.abs(gradients(surrogate) - gradients(other)).max() > 0.1 * np.abs(mean).max()


def test_the_hull_is_left_alone_until_the_warm_up_is_over(data: small.Data, surrogate: Recognizer) -> None:
    adversarial = jnp.clip(data.faces + 0.02, 0, 1)

    def gradients(kind: objectives.Kind, number: int) -> np.ndarray:
        objective = objectives.Objective(kind, warmup_steps=2)
        known = objectives.describe(objective, (surrogate,), data.faces, None)
        return np.asarray(objectives.gradients(objective, (surrogate,), known, adversarial, jnp.int32(number), None))

    np.testing.assert_allclose(gradients("convex-hull", 1), gradients("class-centre", 1), atol=1e-8)
    late = gradients("convex-hull", 2)
    assert np.abs(late - gradients("class-centre", 2)).max() > 0.1 * np.abs(late).max()
