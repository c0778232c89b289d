"""A step that breaks down: found at once, dropped where asked, and the run then as if it had not been."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from advcloak_jax.config import ImageConfig
from advcloak_jax.errors import UserError
from advcloak_jax.training import parallel, placement
from advcloak_jax.training.checkpoint import read_checkpoint
from advcloak_jax.training.feed import ResidentFeed
from advcloak_jax.training.guard import BAD, guarded
from advcloak_jax.training.loop import Job, train
from advcloak_jax.training.metrics import read_metrics
from advcloak_jax.training.runs import start_run
from advcloak_jax.training.state import UniversalState
from advcloak_jax.training.steps import DEVICES


def step(state: UniversalState, batch: dict[str, jax.Array]) -> tuple[UniversalState, dict[str, jax.Array]]:
    """Adds the batch's values; a value of 1e30 overflows in the state alone, one that is no number in the loss too."""
    total = lax.psum(batch["value"].sum(), DEVICES)
    new = state.replace(step=state.step + 1, generator={"w": state.generator["w"] + total * jnp.float32(1e10)})
    return new, {"loss": total}


def gather(rows: Any, item: dict[str, jax.Array], number: jax.Array) -> dict[str, jax.Array]:
    return item


def initial() -> UniversalState:
    return UniversalState(jnp.int32(0), {"w": jnp.zeros(3)}, ())


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_bad_step_is_dropped_on_all_devices(kind: str, bad: float) -> None:
    """Also where only one device meets the value."""
    devices = jax.local_devices()
    scanned = parallel.scan_steps(lambda _: step, gather, unroll=True, on_nan="skip")
    run = parallel.parallelise(scanned, devices, kind)
    values = np.array([[1, 2], [3, bad], [5, 6]], np.float32)
    state, metrics = run(placement.replicate(initial(), devices), {}, {"value": values})
    np.testing.assert_allclose(state.generator["w"], 14e10)
    assert int(state.step) == 3
    np.testing.assert_array_equal(metrics[BAD], [0, 1, 0])
    np.testing.assert_array_equal(metrics["loss"], [3, 0, 11])


PARTS = [("a", jnp.float32, (3,)), ("b", jnp.float32, (3,)), ("c", jnp.bfloat16, (3,)), ("d", jnp.float32, (2, 3))]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("broken", [*(name for name, _, _ in PARTS), "loss", None])
def test_every_array_is_looked_at(broken: str | None, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where arrays of one shape are looked at together, whatever they hold besides."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    def breaking(state: UniversalState, _: Any) -> Any:
        new = {name: leaf.at[..., 1].set(jnp.nan if name == broken else 1) for name, leaf in state.generator.items()}
        return state.replace(generator=new), {"loss": jnp.float32(jnp.inf if broken == "loss" else 1)}

    arrays = {name: jnp.ones(shape, dtype) for name, dtype, shape in PARTS}
    state = UniversalState(jnp.int32(0), arrays | {"whole": jnp.ones(3, jnp.int32)}, ())
    step = jax.vmap(guarded(breaking, skip=False), (None, None), None, axis_name=DEVICES, axis_size=1)
    _, metrics = step(state, None)
    assert metrics[BAD] == (broken is not None)


def job(values: np.ndarray, on_nan: str) -> Job:
    devices = jax.local_devices()
    run = parallel.parallelise(parallel.scan_steps(lambda _: step, gather, unroll=True, on_nan=on_nan), devices, "pmap")
    return Job(
        steps=len(values),
        images_per_step=2,
        state=placement.replicate(initial(), devices),
        advance=lambda state, first, count: run(state, {}, {"value": values[first : first + count]}),
        validate=lambda state: {"value": float(state.generator["w"][0])},
        rank=lambda validation: validation["value"],
        picture=None,
        columns=("loss", "value"),
        feed=ResidentFeed({}, lambda first, count: np.zeros((count, 2), np.int32), devices, "pmap"),
        flops=1e6,
        devices=devices,
    )


def begin(folder: Path, on_nan: Any) -> Any:
    return start_run(
        "image",
        ImageConfig(run=str(folder), steps_per_dispatch=2, log_every=4, checkpoint_every=4, on_nan=on_nan, resume=True),
    )


VALUES = np.ones((12, 2), np.float32)
VALUES[5, 1] = 1e30
"""Step 6: its loss is a number, its update is not."""


def test_stopping_tells_the_step_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", "stop")
    with pytest.raises(UserError, match=r"^The update stopped being a finite number at step 6; lower --learning-rate"):
        train(run, job(VALUES, "stop"), sample=lambda step, picture: None)
    step, state = read_checkpoint(run.checkpoints, best=False)
    assert step == 4
    assert np.isfinite(state["generator"]["w"]).all()


def test_a_stopped_run_goes_on_when_it_may_skip(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train(begin(tmp_path / "run", "stop"), job(VALUES, "stop"), sample=lambda step, picture: None)
    run = begin(tmp_path / "run", "skip")
    found = train(run, job(VALUES, "skip"), sample=lambda step, picture: None)
    np.testing.assert_allclose(found["value"], 11 * 2e10, rtol=1e-6)
    rows = [row for row in read_metrics(run.folder) if row["loss"]]
    assert [(row["step"], row["loss"], row["skipped"]) for row in rows] == [
        ("4", "2", ""),
        ("8", "2", "1"),
        ("12", "2", "0"),
    ]


def test_skipping_everything_is_no_training(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[4:8] = np.nan
    with pytest.raises(UserError, match=r"^Every step up to 8 since the last row of metrics was skipped"):
        train(begin(tmp_path / "run", "skip"), job(values, "skip"), sample=lambda step, picture: None)
