"""A run is a folder: config.json, split.json, metrics.csv, TensorBoard events, checkpoints/, samples/, result.json."""

import dataclasses
import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

import advcloak_jax
from advcloak_jax import settings
from advcloak_jax.config import ImageConfig, PersonConfig, RecognizerConfig, TrainConfig, UniversalConfig, flag
from advcloak_jax.errors import UserError
from advcloak_jax.files import require_folder, write_json

JOBS: dict[str, type[TrainConfig]] = {
    "recognizer": RecognizerConfig,
    "image": ImageConfig,
    "person": PersonConfig,
    "universal": UniversalConfig,
}

IMPORTED = "import"
"""What the config.json of an imported recogniser names in place of a job of training."""

FREE_TO_CHANGE = frozenset(
    {"run", "devices", "parallel", "feed", "feed_workers", "cache", "keep", "log_every", "on_nan"}
)
"""Settings that a resumed run may change: none of them alters what is learnt, as long as every loss is a number."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder and what it was made with."""

    folder: Path
    job: str
    config: TrainConfig

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the run reached its last step."""
        return (self.folder / "result.json").is_file()


def read_run(folder: Path) -> Run:
    """The run in a folder. Raises UserError when there is none."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is no run folder (it has no config.json); train it first or name another one.")
    stored = settings.read_json(folder / "config.json")
    job = stored.get("job") if isinstance(stored, dict) else None
    if job not in list(JOBS) or not isinstance(stored.get("config"), dict):
        raise UserError(f"{folder / 'config.json'} is not of a training job; name a folder that train.py made.")
    config = settings.from_dict(JOBS[job], stored["config"], str(folder / "config.json"))
    return Run(folder, job, config)


def require_free(job: str, config: TrainConfig) -> None:
    """Check that the run's folder can be made, or continued with --resume.

    Raises UserError when the folder is in use and --resume is not given, when a setting that alters the result has
    changed since, or when nothing can be written there.
    """
    folder = Path(config.run)
    if (folder / "config.json").exists():
        earlier = read_run(folder)
        if not config.resume:
            raise UserError(f"{folder} already holds a run; add --resume to continue it, or choose another --run.")
        _require_same(earlier, job, config)
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another --run.")
    # A start that was killed may have left a hidden temporary file, nothing else.
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run; choose another --run.")
    require_folder(folder, f"--run {folder}")


def start_run(job: str, config: TrainConfig) -> Run:
    """Make the folder of a new run and store its settings in it, or reopen it with --resume.

    Raises UserError as `require_free` does.
    """
    require_free(job, config)
    folder = Path(config.run)
    write_json(folder / "config.json", {"job": job, "code": code_version(), "config": settings.to_dict(config)})
    return Run(folder, job, config)


def _require_same(earlier: Run, job: str, config: TrainConfig) -> None:
    if earlier.job != job:
        raise UserError(f"{earlier.folder} holds a run of `train.py {earlier.job}`; choose another --run.")
    before, now = _flat(settings.to_dict(earlier.config)), _flat(settings.to_dict(config))
    for name in before:
        if name not in FREE_TO_CHANGE and before[name] != now[name]:
            raise UserError(
                f"{earlier.folder} was started with {flag(name)} {_shown(before[name])}, "
                f"now it is {_shown(now[name])}; drop the flag, or choose another --run."
            )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names of their flags, those of the split too."""
    split = {f"split.{name}": value for name, value in values["split"].items()}
    return {name: value for name, value in values.items() if name != "split"} | split


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def code_version() -> dict[str, str]:
    """Versions of this package (with its commit, where it is a git checkout) and of what computes."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "jaxopt", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"advcloak-jax": advcloak_jax.__version__, "commit": _commit(), **versions}


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
