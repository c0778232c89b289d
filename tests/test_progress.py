"""Lines of progress: what rate and time left are taken from, on a clock of the test's own."""

import pytest

from advcloak_jax import progress
from advcloak_jax.progress import Progress


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(progress, "time", own)
    return own


def test_compiling_is_no_part_of_the_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("image runs/a", 110, "steps", start=10) as shown:
        clock.now += 40  # the first step compiles
        shown.update(2, "loss 3")
        for _ in range(4):
            clock.now += 3
            shown.update(6, "loss 2")
        clock.now += 37
        shown.update(74)
    assert capsys.readouterr().err.splitlines() == [
        "image runs/a: 12/110 steps, time left unknown, loss 3",
        "image runs/a: 36/110 steps, 2.0 steps/s, 37 s left, loss 2",
        "image runs/a: 110/110 steps, 2.0 steps/s, 0 s left",
        "image runs/a: 110/110 steps, 2.0 steps/s, 0 s left, done",
    ]


def test_all_at_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("embedding", 50, "faces") as shown:
        clock.now += 4
        shown.update(50)
    assert capsys.readouterr().err == "embedding: 50/50 faces, 12.5 faces/s, 0 s left, done\n"


def test_stopped_before_anything(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("embedding", 50, "faces"):
        clock.now += 4
    assert capsys.readouterr().err == "embedding: 0/50 faces, time left unknown, stopped\n"
