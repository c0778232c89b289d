"""Two devices under pmap and under shard_map train exactly as one device with the same global batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_training as small
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from advcloak_jax.errors import UserError
from advcloak_jax.networks.discriminator import Discriminator
from advcloak_jax.networks.generator import Generator
from advcloak_jax.recognizers import margins
from advcloak_jax.recognizers.iresnet import IResNet
from advcloak_jax.training import parallel, placement, state, steps
from advcloak_jax.training.recognizer_step import recognizer_step

WAYS = ((1, "pmap"), (2, "pmap"), (2, "shard_map"))
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def data() -> small.Data:
    assert len(jax.local_devices()) == 2
    return small.make_data()


def recognizer(optimiser: optax.GradientTransformation, margin: str = "arcface") -> tuple[Callable[..., Any], Any]:
    module = small.SmallRecognizer(axis_name=steps.DEVICES)
    chosen = margins.Margin(margin, 16.0, 0.3)
    step = recognizer_step(module, optimiser, chosen)
    norms = margins.first_norms(chosen)
    initial = state.init_recognizer(module, small.PERSONS, small.SIZE, optimiser, jax.random.key(2), norms=norms)
    return (lambda _: step), initial


def run(
    stage: str,
    optimiser: optax.GradientTransformation,
    data: small.Data,
    way: tuple[int, str],
    count: int = 1,
    **kind: Any,
) -> tuple[Any, dict[str, np.ndarray]]:
    devices, mapping = way
    items = small.PERSONS if stage == "person" else small.BATCH
    gather = {"recognizer": small.recognizer_batch, "image": small.image_batch, "person": small.person_batch}[stage]
    bind: Callable[[small.Data], Any]
    if stage == "recognizer":
        bind, initial = recognizer(optimiser, **kind)
    else:
        networks = small.gan(optimiser)
        initial = small.gan_state(networks)
        if stage == "image":
            bind = lambda data: steps.image_step(networks, small.embedder(data))  # noqa: E731
        else:
            warmup = kind.pop("warmup", 0)
            config = small.person_config(**kind)
            bind = lambda data: steps.person_step(networks, small.embedder(data), config, warmup)  # noqa: E731
    return small.run_steps(bind, gather, initial, data, items=items, count=count, devices=devices, kind=mapping)


def gradients(new: Any) -> list[Any]:
    if isinstance(new, state.RecognizerState):
        return [new.optimiser]
    return [new.generator_optimiser, new.discriminator_optimiser]


def statistics(new: Any) -> list[Any]:
    if isinstance(new, state.RecognizerState):
        return [new.batch_stats]
    return [new.generator["batch_stats"], new.discriminator["batch_stats"]]


QUICK = [
    ("recognizer", {"margin": "arcface"}),
    ("image", {}),
    ("person", {"kind": "convex-hull", "distance": "cosine"}),
]
REST = [
    *(("recognizer", {"margin": margin}) for margin in ("softmax", "cosface", "sface", "adaface")),
    *(
        ("person", {"kind": kind, "distance": distance})
        for kind in ("plain", "class-centre", "affine-hull", "convex-hull")
        for distance in ("cosine", "euclidean")
        if (kind, distance) != ("convex-hull", "cosine")
    ),
]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]


@pytest.mark.parametrize(("stage", "kind"), CASES, ids=lambda x: x if isinstance(x, str) else "-".join(x.values()))
def test_gradients_do_not_depend_on_the_devices(data: small.Data, stage: str, kind: dict[str, str]) -> None:
    results = [run(stage, small.recording(), data, way, **kind) for way in WAYS]
    one, one_metrics = results[0]
    for new, metrics in results[1:]:
        for here, there in zip(gradients(new), gradients(one), strict=True):
            assert small.relative(here, there) < ROUNDING
        for here, there in zip(statistics(new), statistics(one), strict=True):
            assert small.relative(here, there) < ROUNDING
        for name, values in metrics.items():
            np.testing.assert_allclose(values, one_metrics[name], rtol=1e-5, atol=1e-6)
    assert all(optax.tree.norm(g) > 1e-3 for g in gradients(one))


@pytest.mark.parametrize("stage", ["recognizer", pytest.param("image", marks=pytest.mark.slow), "person"])
def test_states_after_several_steps_agree(data: small.Data, stage: str) -> None:
    """Six steps; in stage II the convex hull's warm-up ends after three. Momentum, as SGD and as Adam's, is part.

    The tolerance is looser than for one gradient, because the steps carry each other's rounding on, and because Adam
    divides by the gradient's own size: where that is rounding only (a bias before a batch norm), so is the update.
    """
    kind: dict[str, Any] = {"kind": "convex-hull", "warmup": 3} if stage == "person" else {}
    optimiser = optax.sgd(0.05, momentum=0.9) if stage == "recognizer" else optax.adam(1e-3, b1=0.5, b2=0.9, eps=1e-4)
    (one, one_metrics), *others = (run(stage, optimiser, data, way, count=6, **kind) for way in WAYS)
    assert one.step == 6
    for new, metrics in others:
        assert small.relative(new, one) < 1e-4
        for name, values in metrics.items():
            assert values.shape == (6,)
            np.testing.assert_allclose(values, one_metrics[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_published_networks_agree_too(data: small.Data) -> None:
    """Gradients of stage II's step on the real generator and discriminator, narrowed."""
    networks = steps.Gan(
        Generator(width=4, blocks=1, axis_name=steps.DEVICES),
        Discriminator(width=4, axis_name=steps.DEVICES),
        small.recording(),
        0.5,
        10.0,
        1.0,
        small.BATCH,
    )
    initial = jax.jit(lambda: small.gan_state(networks))()
    config = small.person_config("convex-hull")
    one, *others = (
        small.run_steps(
            lambda data: steps.person_step(networks, small.embedder(data), config, 0),
            small.person_batch,
            initial,
            data,
            items=small.PERSONS,
            count=1,
            devices=devices,
            kind=kind,
        )[0]
        for devices, kind in WAYS
    )
    for new in others:
        for here, there in zip(gradients(new), gradients(one), strict=True):
            assert small.relative(here, there) < 1e-4


@pytest.mark.slow
def test_the_published_recogniser_agrees_too(data: small.Data) -> None:
    module = IResNet((1, 1, 1, 1), 0.125, small.EMBEDDING, dropout=0.4, axis_name=steps.DEVICES)
    step = recognizer_step(module, small.recording(), margins.Margin("arcface", 16.0, 0.3))
    initial = jax.jit(
        lambda: state.init_recognizer(module, small.PERSONS, small.SIZE, small.recording(), jax.random.key(2))
    )()
    one, other = (
        small.run_steps(
            lambda _: step,
            small.recognizer_batch,
            initial,
            data,
            items=small.BATCH,
            count=1,
            devices=devices,
            kind="pmap",
        )[0]
        for devices in (1, 2)
    )
    assert small.relative(other.optimiser, one.optimiser) < 1e-4


@pytest.mark.slow
class TestTheseTestsCanFail:
    """What would go wrong without each of the three things that make the devices agree."""

    def test_without_the_mean_of_the_gradients(self, data: small.Data, monkeypatch: pytest.MonkeyPatch) -> None:
        one, _ = run("image", small.recording(), data, WAYS[0])
        monkeypatch.setattr(steps, "mean_over_devices", lambda tree: tree)
        new, _ = run("image", small.recording(), data, WAYS[1])
        assert all(small.relative(a, b) > 0.05 for a, b in zip(gradients(new), gradients(one), strict=True))

    def test_without_synchronised_batch_norm(self, data: small.Data, monkeypatch: pytest.MonkeyPatch) -> None:
        one, _ = run("recognizer", small.recording(), data, WAYS[0])
        monkeypatch.setattr(small, "SmallRecognizer", lambda axis_name: _UNSYNCHRONISED)
        new, _ = run("recognizer", small.recording(), data, WAYS[1])
        assert small.relative(new.optimiser, one.optimiser) > 0.01

    def test_with_shard_maps_own_summing_of_gradients(self, data: small.Data, monkeypatch: pytest.MonkeyPatch) -> None:
        """It would sum gradients that are averaged afterwards; the norms' own gradients do not let it."""

        def checked(run: Any, devices: list[jax.Device], kind: str) -> Any:
            mesh = Mesh(np.array(devices), (steps.DEVICES,))
            spec = (P(), P(), P(None, steps.DEVICES))
            return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=(P(), P()), check_vma=True))

        monkeypatch.setattr(parallel, "parallelise", checked)
        with pytest.raises(ValueError, match="manual axis types do not match"):
            run("image", small.recording(), data, WAYS[2])


_UNSYNCHRONISED = small.SmallRecognizer(axis_name=None)


def test_pick_devices_refuses_what_does_not_fit() -> None:
    assert len(placement.pick_devices(0, 8, "--batch")) == 2
    assert placement.pick_devices(1, 7, "--batch") == jax.local_devices()[:1]
    with pytest.raises(UserError, match=r"--batch 7 cannot be shared by 2 devices"):
        placement.pick_devices(0, 7, "--batch")
    with pytest.raises(UserError, match=r"--devices 3 is more than the 2"):
        placement.pick_devices(3, 8, "--batch")


def test_unrolling_changes_nothing(data: small.Data) -> None:
    bind, initial = recognizer(optax.sgd(0.1))
    chunk = {"index": np.arange(small.BATCH, dtype=np.int32)[None].repeat(3, 0)}
    chunk["place"] = chunk["index"]
    devices = jax.local_devices()[:1]
    found = []
    for unroll in (False, True):
        call = parallel.parallelise(parallel.scan_steps(bind, small.recognizer_batch, unroll=unroll), devices, "pmap")
        found.append(jax.device_get(call(jax.tree.map(jnp.copy, initial), data, chunk)[0]))
    assert small.relative(found[1], found[0]) < ROUNDING


def test_chunk_is_dealt_in_blocks() -> None:
    """Device i gets the i-th block of every step's batch, under pmap as under shard_map."""

    def report(state: Any, resident: Any, chunk: Any) -> tuple[Any, Any]:
        return state, lax.all_gather(chunk, steps.DEVICES)

    chunk = np.arange(12, dtype=np.int32).reshape(3, 4)
    for kind in ("pmap", "shard_map"):
        devices = jax.local_devices()
        replicated = placement.replicate((jnp.zeros(()), jnp.zeros(())), devices)
        _, seen = parallel.parallelise(report, devices, kind)(*replicated, chunk)
        np.testing.assert_array_equal(np.asarray(seen), np.stack([chunk[:, :2], chunk[:, 2:]]))
