"""A classifier shared by two devices trains exactly as one that each device has all of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_training as small
from jax.sharding import PartitionSpec as P

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers import margins
from advcloak_jax.training import class_parallel, parallel, placement, state
from advcloak_jax.training.checkpoint import Checkpoints, read_checkpoint
from advcloak_jax.training.recognizer_step import recognizer_step
from advcloak_jax.training.steps import DEVICES, RecognizerBatch

CLASSES = 301
"""Not divisible by two: of the 384 columns the first device has 192, the second 109 and the padding."""
NUMBERS = jnp.array([0, 150, 250, 300])
"""Classes of the four persons: two on each device, while every device's batch has faces of all."""
ROUNDING = 1e-5
MEAN_GRADIENTS = class_parallel.mean_gradients
NAMES = tuple(margins.PUBLISHED_MARGIN)
WAYS = [(2, "pmap", True), (2, "shard_map", True)]
"""Devices, mapping, and whether the classifier is shared."""


@pytest.fixture(scope="module")
def data() -> small.Data:
    assert len(jax.local_devices()) == 2
    return small.make_data()


def margin(name: str) -> margins.Margin:
    """Weak enough that every term counts on untrained networks; AdaFace's statistics follow each batch at once."""
    return margins.Margin(name, 16.0, 0.3, adaface_rate=0.5, sface_k=5.0, sface_a=0.87, sface_b=1.5)


def gather(data: small.Data, item: Any, number: jax.Array) -> RecognizerBatch:
    batch = small.recognizer_batch(data, item, number)
    return batch._replace(labels=NUMBERS[batch.labels])


def initial(name: str, optimiser: optax.GradientTransformation, *, sharded: bool) -> state.RecognizerState:
    """Fresh state, with biases that differ, so that a device with the wrong ones is found out."""
    module = small.SmallRecognizer(axis_name=DEVICES)
    columns = class_parallel.padded(CLASSES) if sharded else None
    norms = margins.first_norms(margin(name))

    @jax.jit
    def make(key: jax.Array) -> state.RecognizerState:
        made = state.init_recognizer(module, CLASSES, small.SIZE, optimiser, key, columns=columns, norms=norms)
        classifier = made.params["classifier"]
        bias = classifier["bias"].at[:CLASSES].set(jnp.linspace(-1, 1, CLASSES))
        return made.replace(params={**made.params, "classifier": {**classifier, "bias": bias}})

    return make(jax.random.key(2))


def run(
    name: str,
    optimiser: optax.GradientTransformation,
    data: small.Data,
    devices: int,
    kind: str,
    *,
    sharded: bool,
    count: int = 1,
    start: Any = None,
) -> tuple[Any, dict[str, np.ndarray]]:
    """State on the devices after `count` steps, and their metrics."""
    chosen = jax.local_devices()[:devices]
    begin = initial(name, optimiser, sharded=sharded) if start is None else start
    specs = class_parallel.specs(begin) if sharded else None
    module = small.SmallRecognizer(axis_name=DEVICES)
    step = recognizer_step(module, optimiser, margin(name), sharded_classes=CLASSES if sharded else None)
    scanned = parallel.scan_steps(lambda _: step, gather, unroll=count <= 2)
    advance = parallel.parallelise(scanned, chosen, kind, specs)
    rng = np.random.default_rng(11)
    index = np.stack([rng.permutation(small.BATCH) for _ in range(count)]).astype(np.int32)
    chunk = {"index": index, "place": np.broadcast_to(np.arange(small.BATCH, dtype=np.int32), index.shape).copy()}
    own = jax.tree.map(jnp.copy, begin)
    placed = jax.device_put(own, placement.shardings(P() if specs is None else specs, chosen))
    new, metrics = advance(placed, placement.replicate(data, chosen), chunk)
    return new, {key: np.asarray(value) for key, value in metrics.items()}


def unpadded(tree: Any) -> Any:
    """The classes without the padding."""
    return jax.tree.map(
        lambda x: x[..., :CLASSES] if x.shape[-1:] == (class_parallel.padded(CLASSES),) else x, jax.device_get(tree)
    )


def agree(found: Any, expected: Any, tolerance: float = ROUNDING) -> None:
    """The classifier alone, the network alone: neither may hide behind the other."""
    for part in ("classifier", "backbone"):
        assert small.relative(unpadded(found)[part], unpadded(expected)[part]) < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_statistics_are_those_of_a_whole_classifier(data: small.Data, name: str) -> None:
    one, one_metrics = run(name, small.recording(), data, 1, "pmap", sharded=False)
    assert optax.tree.norm(one.optimiser["backbone"]) > 1e-3
    others = [(1, "pmap", True), (2, "shard_map", False)] if name == "adaface" else []
    for devices, kind, sharded in WAYS + others:
        new, metrics = run(name, small.recording(), data, devices, kind, sharded=sharded)
        agree(new.optimiser, one.optimiser)
        assert small.relative(new.batch_stats, one.batch_stats) < ROUNDING
        for key, values in metrics.items():
            np.testing.assert_allclose(values, one_metrics[key], rtol=1e-5, atol=1e-6)
        if name == "adaface":
            np.testing.assert_allclose(new.norms, one.norms, rtol=1e-6)
            assert new.norms.mean != 20


@pytest.mark.parametrize("name", NAMES)
def test_states_after_three_steps_agree(data: small.Data, name: str) -> None:
    """With momentum and weight decay, and the padding still 0."""
    optimiser = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.05, momentum=0.9))
    one, one_metrics = run(name, optimiser, data, 1, "pmap", sharded=False, count=3)
    for kind in ("pmap", "shard_map") if name == "arcface" else ("shard_map",):
        new, metrics = run(name, optimiser, data, 2, kind, sharded=True, count=3)
        assert new.step == 3
        agree(new.params, one.params, 1e-4)
        agree(new.optimiser[1][0].trace, one.optimiser[1][0].trace, 1e-3)
        np.testing.assert_allclose(metrics["loss"], one_metrics["loss"], rtol=1e-4)
        assert not np.asarray(new.params["classifier"]["weights"])[:, CLASSES:].any()


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_each_device_holds_half_of_the_classes(data: small.Data, kind: str) -> None:
    """Weights, their momentum and biases; the network is whole on both. After a step as before it."""
    new, _ = run("arcface", optax.sgd(0.05, momentum=0.9), data, 2, kind, sharded=True)
    trace = new.optimiser[0].trace
    for leaf, shape in (
        (new.params["classifier"]["weights"], (small.EMBEDDING, 192)),
        (trace["classifier"]["weights"], (small.EMBEDDING, 192)),
        (new.params["classifier"]["bias"], (192,)),
    ):
        assert [shard.data.shape for shard in leaf.addressable_shards] == [shape] * 2
    for leaf in jax.tree.leaves((new.params["backbone"], trace["backbone"], new.batch_stats, new.step)):
        assert all(shard.data.shape == leaf.shape for shard in leaf.addressable_shards)


@pytest.mark.parametrize("name", ["cosface", "adaface"])
def test_a_checkpoint_fits_another_number_of_devices(data: small.Data, tmp_path: Path, name: str) -> None:
    """Two steps on two devices, saved, and the third on one, as if all three had been on two."""
    optimiser = optax.sgd(0.05, momentum=0.9)
    two, _ = run(name, optimiser, data, 2, "shard_map", sharded=True, count=2)
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(2, two, 0.5)
    checkpoints.wait()
    like = placement.replicate(initial(name, optimiser, sharded=True), jax.local_devices()[:1])
    one = checkpoints.restore(2, like)
    checkpoints.close()
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.params["classifier"]["weights"].sharding.device_set == set(jax.local_devices()[:1])
    ends = [
        run(name, optimiser, data, devices, "pmap", sharded=True, start=jax.device_get(from_))[0]
        for devices, from_ in ((1, one), (2, two))
    ]
    agree(ends[0].params, ends[1].params)
    step, read = read_checkpoint(tmp_path / "c", best=True)
    assert step == 2
    np.testing.assert_array_equal(read["params"]["classifier"]["weights"], two.params["classifier"]["weights"])
    assert ("norms" in read) == (name == "adaface")


def test_losses_without_statistics_have_the_state_they_always_had() -> None:
    """So that older checkpoints can be resumed."""
    made = initial("arcface", optax.sgd(0.1), sharded=False)
    assert set(vars(made)) == {"step", "params", "batch_stats", "optimiser"}
    assert set(vars(initial("adaface", optax.sgd(0.1), sharded=False))) - set(vars(made)) == {"norms"}


def test_fresh_weights_do_not_depend_on_the_sharing() -> None:
    def make(key: jax.Array) -> Any:
        module = small.SmallRecognizer()
        return state.init_recognizer(module, CLASSES, small.SIZE, optax.sgd(0.1), key, columns=384)

    key = jax.random.key(2)
    specs = class_parallel.specs(jax.eval_shape(make, key))
    shared = jax.jit(make, out_shardings=placement.shardings(specs, jax.local_devices()))(key)
    whole = initial("arcface", optax.sgd(0.1), sharded=False).params["classifier"]["weights"]
    np.testing.assert_allclose(unpadded(shared.params["classifier"]["weights"]), whole, rtol=1e-6)


def test_padding_is_the_same_on_every_number_of_devices() -> None:
    assert [class_parallel.padded(n) for n in (1, 384, 385, 10_572)] == [384, 384, 768, 10_752]
    for devices in (1, 2, 3, 4, 8, 16, 64):
        class_parallel.require_divisor(devices)
    with pytest.raises(UserError, match=r"--classifier sharded cannot be shared by 5 devices; set --devices"):
        class_parallel.require_divisor(5)


class TestTheseTestsCanFail:
    """What would go wrong without either half of the rule for gradients."""

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda gradients: jax.lax.pmean(gradients, DEVICES),
            lambda gradients: {**MEAN_GRADIENTS(gradients), "classifier": gradients["classifier"]},
        ],
        ids=["mean of different classes", "no division"],
    )
    def test_of_the_classifier(
        self, data: small.Data, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Any], Any]
    ) -> None:
        one, _ = run("arcface", small.recording(), data, 1, "pmap", sharded=False)
        monkeypatch.setattr(class_parallel, "mean_gradients", wrong)
        new, _ = run("arcface", small.recording(), data, 2, "shard_map", sharded=True)
        parts = (unpadded(tree)["classifier"] for tree in (new.optimiser, one.optimiser))
        assert small.relative(*parts) > 0.1
