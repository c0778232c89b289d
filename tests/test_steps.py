"""The three steps against their equations written out, and what must stay untouched or agree between them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_training as small

from advcloak_jax import losses, subspace
from advcloak_jax.recognizers.margins import Margin
from advcloak_jax.training import state, steps
from advcloak_jax.training.recognizer_step import recognizer_step

RATE = 0.02


@pytest.fixture(scope="module")
def data() -> small.Data:
    return small.make_data()


def on_one_device(step: Callable[[Any, Any], Any], initial: Any, batch: Any) -> Any:
    """One step outside of any loop."""
    return jax.device_get(compiled(step)(initial, batch))


def compiled(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return jax.jit(jax.vmap(step, in_axes=(None, None), out_axes=None, axis_name=steps.DEVICES, axis_size=1))


def everything(data: small.Data, number: int = 0) -> tuple[steps.ImageBatch, steps.PersonBatch]:
    """All images as a batch of stage I and as one of stage II."""
    images = {"index": jnp.arange(small.BATCH), "place": jnp.arange(small.BATCH)}
    persons = {"index": jnp.arange(small.PERSONS), "place": jnp.arange(small.PERSONS)}
    return small.image_batch(data, images, number), small.person_batch(data, persons, number)


def image_result(data: small.Data, networks: steps.Gan, initial: Any) -> Any:
    return on_one_device(steps.image_step(networks, small.embedder(data)), initial, everything(data)[0])


def person_result(
    data: small.Data, networks: steps.Gan, initial: Any, kind: str, distance: str = "cosine", warmup: int = 0
) -> Any:
    step = steps.person_step(networks, small.embedder(data), small.person_config(kind, distance), warmup)
    return on_one_device(step, initial, everything(data)[1])


def bce(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Eq. 9-11's cross-entropy from probabilities, one label per image."""
    labels = labels.reshape(-1, *[1] * (logits.ndim - 1))
    truth = jax.nn.sigmoid(logits)
    return -(labels * jnp.log(truth) + (1 - labels) * jnp.log(1 - truth)).mean()


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a * b).sum(-1) / jnp.linalg.norm(a, axis=-1) / jnp.linalg.norm(b, axis=-1)


def literally(data: small.Data, initial: state.GanState, person: bool) -> dict[str, Any]:
    """One step as facts.md has it: D's gradient, then G's with the new D; G is run anew for every use."""
    networks = small.gan(optax.sgd(RATE), axis_name=None)
    n, faces = small.PER_PERSON, small.flat(data.faces)
    originals = small.flat(data.embeddings)
    key = jax.random.fold_in(data.key, 0)
    real_labels, fake_labels = losses.soft_labels(key, jnp.arange(small.BATCH), small.BATCH)
    g, d = initial.generator, initial.discriminator

    def run(module: Any, params: Any, stats: Any, x: jax.Array) -> Any:
        out, new = module.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
        return out, new["batch_stats"]

    def masks(params: Any) -> jax.Array:
        """The masks that the norm counts: one per image, or Eq. 2's one per person."""
        raw, _ = run(networks.generator, params, g["batch_stats"], faces)
        return jnp.stack([sum(raw[n * p + i] for i in range(n)) / n for p in range(small.PERSONS)]) if person else raw

    def protected(params: Any) -> jax.Array:
        m = masks(params)
        return jnp.stack([jnp.clip(x + m[i // n if person else i], 0, 1) for i, x in enumerate(faces)])

    def d_loss(params: Any) -> tuple[jax.Array, Any]:
        real, stats = run(networks.discriminator, params, d["batch_stats"], faces)
        fake, stats = run(networks.discriminator, params, stats, protected(g["params"]))
        return bce(real, real_labels) + bce(fake, fake_labels), stats

    (d_value, d_stats), d_gradient = jax.value_and_grad(d_loss, has_aux=True)(d["params"])
    d_new = jax.tree.map(lambda p, q: p - RATE * q, d["params"], d_gradient)

    def g_loss(params: Any) -> tuple[jax.Array, Any]:
        worn = protected(params)
        logits, stats = run(networks.discriminator, d_new, d_stats, worn)
        norms = jnp.stack([jnp.maximum(jnp.sqrt((m**2).sum()), networks.norm_floor) for m in masks(params)])
        features = small.embedder(data)(worn)
        if person:
            nearest = [
                subspace.project(space, f[None], kind="convex-hull", iterations=10)[0]
                for space, f in (
                    (jax.tree.map(lambda x, p=i // n: x[p], data.spaces), features[i]) for i in range(small.BATCH)
                )
            ]
            adversarial = cosine(features, jax.lax.stop_gradient(jnp.stack(nearest))).mean()
        else:
            adversarial = cosine(features, originals).mean()
        value = bce(logits, jnp.ones(len(faces))) + 0.5 * norms.mean() + 10.0 * adversarial
        return value, (stats, norms.mean(), adversarial)

    (g_value, (d_stats, norm, adversarial)), g_gradient = jax.value_and_grad(g_loss, has_aux=True)(g["params"])
    _, g_stats = run(networks.generator, g["params"], g["batch_stats"], faces)
    return {
        "generator": {
            "params": jax.tree.map(lambda p, q: p - RATE * q, g["params"], g_gradient),
            "batch_stats": g_stats,
        },
        "discriminator": {"params": d_new, "batch_stats": d_stats},
        "metrics": {"generator": g_value, "discriminator": d_value, "norm": norm, "adversarial": adversarial},
    }


@pytest.mark.parametrize("person", [False, True], ids=["image", "person"])
def test_a_step_is_its_equations(data: small.Data, person: bool) -> None:
    networks = small.gan(optax.sgd(RATE))
    initial = small.gan_state(networks)
    new, metrics = (
        person_result(data, networks, initial, "convex-hull") if person else image_result(data, networks, initial)
    )
    expected = jax.jit(lambda: literally(data, initial, person))()
    for name in ("generator", "discriminator"):
        before, after = getattr(initial, name)["params"], getattr(new, name)
        moved = jax.tree.map(lambda a, b: a - b, after["params"], jax.device_get(before))
        should = jax.tree.map(lambda a, b: a - b, expected[name]["params"], before)
        assert small.relative(moved, should) < 1e-4
        assert small.relative(after["batch_stats"], expected[name]["batch_stats"]) < 1e-5
    for name, value in expected["metrics"].items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4)
    assert new.step == 1


def test_masks_per_image_in_stage_two_are_stage_one_on_whole_persons(data: small.Data) -> None:
    networks = small.gan(optax.sgd(RATE))
    initial = small.gan_state(networks)
    settings = dataclasses.replace(small.person_config("plain"), masks="image")
    batch = small.person_batch(
        data, {"index": jnp.arange(small.PERSONS), "place": jnp.arange(small.PERSONS)}, jnp.int32(0)
    )
    ours, _ = on_one_device(steps.person_step(networks, small.embedder(data), settings, 0), initial, batch)
    expected, _ = image_result(data, networks, initial)
    assert small.relative(ours.generator, expected.generator) < 1e-6
    assert small.relative(ours.discriminator, expected.discriminator) < 1e-6
    plain, _ = person_result(data, networks, initial, "plain")
    assert small.relative(plain.generator, expected.generator) > 1e-4


def test_a_recognizer_step_is_its_equations(data: small.Data) -> None:
    module, free = (small.SmallRecognizer(axis_name=name) for name in (steps.DEVICES, None))
    optimiser = optax.sgd(RATE)
    initial = state.init_recognizer(module, small.PERSONS, small.SIZE, optimiser, jax.random.key(2))
    batch = small.recognizer_batch(data, {"index": jnp.arange(20), "place": jnp.arange(20)}, jnp.int32(0))
    new, metrics = on_one_device(recognizer_step(module, optimiser, Margin("cosface", 16.0, 0.3)), initial, batch)
    flip_key, _ = jax.random.split(batch.key)
    mirrored = steps.mirror_half(batch.faces, flip_key, batch.positions)

    def loss(params: Any) -> jax.Array:
        variables = {"params": params["backbone"], "batch_stats": initial.batch_stats}
        features, _ = free.apply(variables, mirrored, train=True, mutable=["batch_stats"])
        scores = cosine(features[:, None], params["classifier"]["weights"].T[None])
        value = jnp.zeros(())
        for i, label in enumerate(batch.labels):
            logits = 16.0 * scores[i].at[label].add(-0.3)
            value += jax.nn.logsumexp(logits) - logits[label]
        return value / len(batch.labels)

    value, gradient = jax.jit(jax.value_and_grad(loss))(initial.params)
    moved = jax.tree.map(lambda a, b: a - b, new.params, jax.device_get(initial.params))
    assert small.relative(moved, jax.tree.map(lambda g: -RATE * g, gradient)) < 1e-4
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)


def test_half_of_the_faces_are_mirrored_by_their_place_alone() -> None:
    faces = jnp.arange(4000.0).reshape(1000, 1, 4, 1)
    key, places = jax.random.key(0), jnp.arange(1000)
    found = steps.mirror_half(faces, key, places)
    mirrored = np.asarray((found == faces[:, :, ::-1]).all((1, 2, 3)))
    kept = np.asarray((found == faces).all((1, 2, 3)))
    assert (mirrored ^ kept).all()
    assert 430 < mirrored.sum() < 570
    np.testing.assert_array_equal(steps.mirror_half(faces[300:], key, places[300:]), found[300:])


def test_with_one_image_per_person_stage_two_is_stage_one(data: small.Data) -> None:
    networks = small.gan(optax.sgd(RATE))
    initial = small.gan_state(networks)
    image, _ = everything(data)
    single = steps.PersonBatch(
        image.faces[:, None],
        image.embeddings[:, None],
        jax.jit(subspace.fit)(image.embeddings[:, None]),
        image.positions,
        image.key,
    )
    one, one_metrics = image_result(data, networks, initial)
    for kind in ("plain", "class-centre"):  # the only image's embedding is the centre
        step = steps.person_step(networks, small.embedder(data), small.person_config(kind), 0)
        two, two_metrics = on_one_device(step, initial, single)
        assert small.relative(two, one) < 1e-6
        for name, value in one_metrics.items():
            np.testing.assert_allclose(two_metrics[name], value, rtol=1e-5)


def test_warm_up_is_the_class_centre_and_ends_at_its_step(data: small.Data) -> None:
    networks = small.gan(small.recording())
    initial = small.gan_state(networks)
    of = functools.partial(person_result, data, networks)
    centre, hull = (of(initial, kind)[0].generator_optimiser for kind in ("class-centre", "convex-hull"))
    assert small.relative(centre, hull) > 1e-3
    step = compiled(steps.person_step(networks, small.embedder(data), small.person_config("convex-hull"), 3))
    for number, expected in ((0, centre), (2, centre), (3, hull), (9, hull)):
        new, _ = step(initial.replace(step=jnp.int32(number)), everything(data)[1])
        assert small.relative(new.generator_optimiser, expected) < 1e-5
        assert new.step == number + 1


def test_no_gradient_reaches_the_surrogate(data: small.Data) -> None:
    """It is not in the state, and the originals' embeddings and subspaces are constants of the loss."""
    networks = small.gan(small.recording())
    initial = small.gan_state(networks)
    held = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(initial)}
    assert len(jax.tree.leaves(initial)) == len(held)
    assert not any("surrogate" in name for name in held)
    before = jax.device_get(data.surrogate)
    person_result(data, networks, initial, "convex-hull")
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(data.surrogate), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_small_step_lowers_what_the_generator_minimises(data: small.Data) -> None:
    """Against a fixed discriminator: its own learning rate is nil."""
    networks = small.gan(optax.sgd(1e-3))._replace(lambda_adversarial=10.0)
    initial = small.gan_state(networks)
    first, metrics = person_result(data, networks, initial, "class-centre", "euclidean")
    frozen = first.replace(discriminator=initial.discriminator, step=initial.step)
    _, after = person_result(data, networks, frozen, "class-centre", "euclidean")
    assert after["generator"] < metrics["generator"]
    assert after["adversarial"] < metrics["adversarial"]
