"""Metrics of a run: metrics.csv and TensorBoard events, both cut back to the restored step on resume."""

import csv
import io
from pathlib import Path
from typing import Protocol

import numpy as np

from advcloak_jax import settings
from advcloak_jax.errors import UserError
from advcloak_jax.files import write_text
from advcloak_jax.training import distributed
from advcloak_jax.training.runs import Run
from advcloak_jax.training.wandb_writer import WandbWriter


class Writer(Protocol):
    """Where metrics and pictures of a run go."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row."""
        ...

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture [H, W, 3] uint8."""
        ...

    def close(self) -> None:
        """Write what is buffered."""
        ...


class NoWriter:
    """For the processes that do not write."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Writers:
    """Several of them."""

    def __init__(self, *writers: Writer) -> None:
        self._writers = writers

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row."""
        for writer in self._writers:
            writer.write(step, values)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture [H, W, 3] uint8."""
        for writer in self._writers:
            writer.picture(step, name, pixels)

    def close(self) -> None:
        """Write what is buffered."""
        for writer in self._writers:
            writer.close()


def open_writer(run: Run, columns: tuple[str, ...], step: int) -> Writer:
    """The writer of a run that is at `step`; of several processes only the first has one."""
    if not distributed.writes():
        return NoWriter()
    own = MetricWriter(run.folder, columns, step)
    project = run.config.wandb
    return Writers(own, WandbWriter(run.folder, project, settings.to_dict(run.config))) if project else own


class MetricWriter:
    """Appends rows of metrics; a metric that a row lacks stays empty.

    columns: every metric the run writes. step: rows behind it are dropped, because those steps are made again.
    """

    def __init__(self, folder: Path, columns: tuple[str, ...], step: int) -> None:
        self._columns = ("step", *columns)
        path = folder / "metrics.csv"
        kept = [row for row in read_metrics(folder) if int(row["step"]) <= step] if path.exists() else []
        text = io.StringIO()
        rows = csv.DictWriter(text, self._columns, lineterminator="\n", extrasaction="ignore")
        rows.writeheader()
        rows.writerows(kept)
        write_text(path, text.getvalue())
        self._file = path.open("a", encoding="utf-8", newline="")
        self._rows = csv.DictWriter(self._file, self._columns, lineterminator="\n")
        from tensorboardX import SummaryWriter  # here, because it imports PyTorch where there is one, for seconds

        # Files are named by the second: the suffix keeps a quick resume from overwriting the file before.
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=step + 1, filename_suffix=f".{step:08d}", write_to_disk=True
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row."""
        self._rows.writerow({"step": step, **{name: f"{value:.6g}" for name, value in values.items()}})
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture [H, W, 3] uint8 for TensorBoard."""
        self._board.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is buffered."""
        self._file.close()
        self._board.close()


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """Rows of a run's metrics.csv as text; a torn last line, as a killed process leaves, is passed over.

    Raises UserError when it is missing or no table of steps.
    """
    path = folder / "metrics.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [row for row in csv.DictReader(file) if row["step"].isdecimal() and None not in row.values()]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing.") from error
    except (UnicodeDecodeError, KeyError, csv.Error) as error:
        raise UserError(f"{path} is no table of metrics any more ({error}); restore it, or remove it.") from error
