"""Where time and memory go: compilation, phases and waiting apart from training; MFU where it can be known."""

import time
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advcloak_jax.training import memory, speed
from advcloak_jax.training.times import COMPILE_EVENTS, Times


class Clock:
    """Time that only passes when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_a_compilation_is_no_time_of_the_phase_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    times = Times()
    with times.phase("validation"):
        clock.now += 10
        # A trace inside of a trace is told first.
        times._compiled(f"{COMPILE_EVENTS}jaxpr_trace_duration", 2.0, 3.0)
        times._compiled(f"{COMPILE_EVENTS}jaxpr_trace_duration", 1.0, 5.0)
        times._compiled(f"{COMPILE_EVENTS}backend_compile_duration", 5.0, 7.0)
        times._compiled("/jax/something/else", 0.0, 100.0)
    assert times.compile_seconds == 6.0
    assert times.of("validation") == 4.0
    assert times.apart() == 10.0


def test_jax_tells_of_compilations() -> None:
    with Times() as times:
        jax.jit(lambda x: jnp.sin(x) @ x)(np.ones((3, 3), np.float32))
        first = times.compile_seconds
    jax.jit(lambda x: jnp.cos(x) @ x)(np.ones((3, 3), np.float32))
    assert 0 < first == times.compile_seconds


def test_speed_is_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, times, waited = Clock(monkeypatch), Times(), [1.0]
    meter = speed.Meter(images=8, flops=2e12, peak=1e13, times=times, waited=lambda: waited[0])
    with times.phase("checkpoint"):
        clock.now += 3
    times._compiled(f"{COMPILE_EVENTS}backend_compile_duration", 0.0, 2.0)
    clock.now += 2 + 10  # compiling, and ten seconds of training, half a second of them waiting
    waited[0] += 0.5
    assert meter.read(steps=20) == {
        "images_per_second": 16.0,
        "mfu": pytest.approx(20 * 2e12 / 10 / 1e13),
        "input_wait": 0.05,
        "compile_seconds": 2.0,
        "checkpoint_seconds": 3.0,
        "validation_seconds": 0.0,
    }
    clock.now += 10
    again = meter.read(steps=10)
    assert (again["images_per_second"], again["compile_seconds"], again["checkpoint_seconds"]) == (8.0, 0.0, 0.0)
    overall = meter.overall(steps=30)
    assert (overall["images_per_second"], overall["training_seconds"]) == (12.0, 20.0)
    assert (overall["input_wait_seconds"], overall["checkpoint_seconds"]) == (0.5, 3.0)
    assert set(again) == set(speed.COLUMNS)


def test_the_peak_of_several_devices() -> None:
    def devices(*kinds: str) -> Any:
        return [types.SimpleNamespace(device_kind=kind) for kind in kinds]

    assert speed.peak_of(devices("NVIDIA L4", "NVIDIA L4"), "bfloat16") == 2 * 120e12
    assert speed.peak_of(devices("NVIDIA L4", "unheard of"), "bfloat16") is None
    assert speed.peak_of(jax.local_devices(), "float32") is None
    meter = speed.Meter(8, 1.0, None, Times(), lambda: 0.0)
    assert "mfu" not in meter.read(1)


def test_peak_memory_is_the_devices_where_they_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, before = memory.peak()
    assert kind == "process"
    held = np.ones(2**25)  # 256 MiB
    assert memory.peak()[1] >= max(before, held.nbytes)

    def device(peak: int | None) -> Any:
        return types.SimpleNamespace(memory_stats=lambda: None if peak is None else {"peak_bytes_in_use": peak})

    monkeypatch.setattr(jax, "local_devices", lambda: [device(5), device(None), device(9)])
    assert memory.peak() == ("device", 9)


def test_the_summary_says_whose_memory_it_is() -> None:
    told = speed.summary(speed.Meter(8, 1e12, 1e13, Times(), lambda: 0.0), 3)
    line = speed.describe(told)
    assert "images/s, MFU" in line
    assert "GiB of the process, as its devices tell none" in line
    assert "of the fullest device" in speed.describe({**told, "peak_device_bytes": 2**30})
