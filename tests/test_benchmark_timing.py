"""Times become medians, rates and ratios, turns are told apart by where the cores are, and pieces are held as told."""

import os
import time

import jax
import pytest

from benchmarks import handover, stages, timing
from benchmarks.sizes import STAGE_ONE


def test_summaries_of_times() -> None:
    found = timing.Timing(9.0, (1.0, 2.0, 4.0)).summary(8, devices=2, steps=2)
    assert found["images_per_second"] == {"median": 4.0, "low": 2.0, "high": 8.0}
    assert found["images_per_second_per_device"] == 2.0
    assert found["step_seconds"]["p50"] == 1.0
    assert timing.per_item(timing.Timing(0, (1.0, 2.0)), timing.Timing(0, (4.0, 4.0)), 8, 4)["median"] == pytest.approx(
        2 * 4 / 1.5
    )


def test_the_papers_schedule_takes_its_images_at_each_ways_rates() -> None:
    """At 1,000 images a second in stage I and 500 in stage II, 5,000 and 9,600 seconds."""

    def row(way: str, stage: str, rate: float) -> dict[str, object]:
        return {"way": way, "stage": stage, "images_per_second": {"median": rate}}

    rows = [row("ours", STAGE_ONE, 1000.0), row("ours", "convex-hull", 500.0), row("ours", "plain", 9.0)]
    hours = stages.schedule_hours([*rows, row("eager", STAGE_ONE, 7.0)])
    assert hours == {"ours": pytest.approx(14_600 / 3600)}
    slower = [row("ours", STAGE_ONE, 10.0), row("ours", "convex-hull", 5.0)]
    assert stages.schedule_hours([*slower, *rows, *slower]) == hours  # the best of several batches


def test_every_way_is_compared_at_the_best_batch_of_its_own() -> None:
    """Ours is fastest with 8 images, the peer with 4; where outputs differ there is no ratio."""

    def row(way: str, batch: int, rate: float, **more: object) -> dict[str, object]:
        return {"stage": "plain", "way": way, "batch": batch, "images_per_second": {"median": rate}} | more

    rows = [
        *(row("ours", batch, rate) for batch, rate in ((4, 10.0), (8, 30.0), (16, 20.0))),
        *(row("eager", batch, rate, same_outputs=True) for batch, rate in ((4, 15.0), (8, 12.0))),
        row("compile", 4, 15.0, same_outputs=False),
    ]
    best = {one["way"]: one for one in stages.best_batches(rows)}
    assert {way: one["batch"] for way, one in best.items()} == {"ours": 8, "eager": 4, "compile": 4}
    assert best["eager"]["ours_is_faster"] == 2.0
    assert "ours_is_faster" not in best["compile"]
    assert "ours_is_faster" not in best["ours"]


def test_turns_are_told_apart_by_how_fast_cores_hand_over() -> None:
    between = iter([100.0, 110.0, 480.0, 490.0, 500.0, 105.0])
    readings: list[float] = []
    found = timing.alternate({"a": lambda: 0.0}, 5, between=lambda: readings.append(next(between)))
    assert len(found["a"].seconds) == 5
    assert len(readings) == 6
    assert handover.places(readings) == {"near": [0], "far": [2, 3]}
    assert handover.places([480.0, 490.0, 500.0]) == {"near": [0, 1]}
    assert timing.chosen(timing.Timing(9.0, (1.0, 2.0, 3.0, 4.0)), [2, 3]) == timing.Timing(9.0, (3.0, 4.0))


def test_a_value_handed_over_and_back_is_timed() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core hands nothing over")
    began = time.perf_counter()
    taken = handover.read()
    assert taken is not None
    assert 10 < taken < 1e9 * (time.perf_counter() - began) / 100


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the heap is the CPU's")
@pytest.mark.parametrize("hold", [True, False])
def test_pieces_are_held_from_the_warm_up_to_the_last_call(hold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    class Heap:
        def __init__(self, *, on_cpu: bool) -> None:
            told.append(on_cpu)

        def __enter__(self) -> "Heap":
            return self

        def __exit__(self, *_: object) -> None:
            told.append("given back")

        def take(self) -> None:
            told.append("taken")

    monkeypatch.setattr(timing, "Pieces", Heap)
    timing.alternate({"a": lambda: told.append("called")}, 2, hold_pieces=hold)
    assert told == [hold, "called", "taken", "called", "called", "given back"]
