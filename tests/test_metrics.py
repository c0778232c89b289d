"""metrics.csv: appended, cut back on resume, readable after a kill."""

from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from advcloak_jax.errors import UserError
from advcloak_jax.training.metrics import MetricWriter, read_metrics

COLUMNS = ("loss", "auc")


def write(folder: Path, first: int, *steps: int) -> None:
    writer = MetricWriter(folder, COLUMNS, first)
    for step in steps:
        writer.write(step, {"loss": step / 8})
        if step % 4 == 0:
            writer.write(step, {"auc": 0.5})
    writer.close()


def text(folder: Path) -> str:
    return (folder / "metrics.csv").read_text()


def test_rows(tmp_path: Path) -> None:
    write(tmp_path, 0, 2, 4)
    assert text(tmp_path) == "step,loss,auc\n2,0.25,\n4,0.5,\n4,,0.5\n"
    assert read_metrics(tmp_path)[1] == {"step": "4", "loss": "0.5", "auc": ""}


def test_resuming_writes_what_going_on_would_have_written(tmp_path: Path) -> None:
    write(tmp_path / "a", 0, 2, 4, 6, 8)
    write(tmp_path / "b", 0, 2, 4, 6)  # killed; the newest checkpoint is of step 4
    write(tmp_path / "b", 4, 6, 8)
    assert text(tmp_path / "a") == text(tmp_path / "b")


def test_rows_are_on_disk_before_the_end(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, COLUMNS, 0)
    writer.write(2, {"loss": 1.0})
    assert [row["step"] for row in read_metrics(tmp_path)] == ["2"]
    writer.close()


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 0, 2, 4)
    whole = text(tmp_path)
    for torn in ("6", "6,0.", ",", "x"):
        (tmp_path / "metrics.csv").write_text(whole + torn)
        assert len(read_metrics(tmp_path)) == 3
        write(tmp_path, 4)
        assert text(tmp_path) == whole


def test_a_start_from_the_beginning_keeps_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, 2)
    write(tmp_path, 0)
    assert text(tmp_path) == "step,loss,auc\n"


def events(folder: Path) -> list[Event]:
    """Everything in the event files, in the order TensorBoard reads them."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:  # a record is its length, a checksum of that, the event, a checksum of it
            length = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_tensorboard_is_told_to_forget_what_is_made_again(tmp_path: Path) -> None:
    write(tmp_path, 0, 2, 4, 6)
    write(tmp_path, 4, 6, 8)
    starts = [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert starts[-1] == 5
    losses = [
        (event.step, value.simple_value)
        for event in events(tmp_path)
        for value in event.summary.value
        if value.tag == "loss"
    ]
    assert losses == [(step, step / 8) for step in (2, 4, 6, 6, 8)]


def test_a_picture_is_kept(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, COLUMNS, 0)
    writer.picture(3, "sample", np.full((4, 6, 3), 9, np.uint8))
    writer.close()
    ((step, image),) = [(e.step, v.image) for e in events(tmp_path) for v in e.summary.value if v.tag == "sample"]
    assert (step, image.height, image.width) == (3, 4, 6)


def test_a_file_cut_to_nothing_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").touch()
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("damage", [b"step,loss\n2,\xff\n", b"loss\n0.5\n"])
def test_what_is_no_table_is_told(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(damage)
    with pytest.raises(UserError, match="no table of metrics any more"):
        read_metrics(tmp_path)


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.csv is missing"):
        read_metrics(tmp_path)
