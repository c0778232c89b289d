"""Settings of the parts that people play, and of every training job."""

import dataclasses
from typing import Literal

from advcloak_jax.config.checks import flag, require, require_seed
from advcloak_jax.config.cluster import ClusterConfig

BadImage = Literal["refuse", "skip"]
OnNan = Literal["stop", "skip"]
Parallel = Literal["pmap", "shard_map"]
Dtype = Literal["float32", "bfloat16"]
FeedKind = Literal["auto", "resident", "sharded", "streamed"]
Remat = Literal["none", "blocks"]
Preset = Literal["paper", "fast", "demo"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Who plays which part: dealt by identity, disjoint, in the order of these fields; what is left distracts."""

    seed: int = 0
    """Seed of the deal."""
    protected: int = 500
    """Persons whose photos are protected and probed; nothing trains on them."""
    n_inference: int = 10
    """Images per protected person that the mask is made from."""
    n_test: int = 5
    """Other images per protected person that the mask is tried on."""
    generator: int = 3000
    """Persons that stages I and II train on."""
    generator_images: int = 16
    """Images per person in stage II; persons with fewer are not dealt to this part."""
    validation: int = 100
    """Persons that periodic validation uses during training."""
    surrogate: int = 5000
    """Persons that surrogate recognisers train on; 0 when all of them are imported."""
    target: int = 0
    """Persons that black-box recognisers train on; 0: the surrogate's people, as in the paper."""
    min_images: int = 2
    """Persons with fewer images than this are dealt to no training or validation part."""
    protected_from: str = "*"
    """Only identities whose name matches this pattern can be protected (names are SOURCE/FOLDER)."""
    generator_from: str = "*"
    """Only identities whose name matches this pattern can be dealt to the generator and validation parts."""
    surrogate_from: str = "*"
    """Only identities whose name matches this pattern can be dealt to the surrogate and target parts."""

    def __post_init__(self) -> None:
        for name in ("protected", "n_inference", "n_test", "generator", "generator_images", "validation"):
            require(getattr(self, name) >= 1, f"--split.{flag(name)[2:]} must be at least 1.")
        require(self.n_test >= 2, "--split.n-test must be at least 2: a probe needs another image as its mate.")
        for name in ("seed", "surrogate", "target"):
            require(getattr(self, name) >= 0, f"--split.{name} must be 0 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(ClusterConfig):
    """Settings that every training job has."""

    run: str = "runs/run"
    """Folder of this run: settings, metrics, checkpoints and samples go there."""
    resume: bool = False
    """Continue the run in its folder (its own settings are the defaults); start it if it does not exist."""
    preset: Preset = "paper"
    """Defaults of every other flag: `paper` as published, `fast` for a few minutes on an accelerator, `demo` for a few
    minutes on two CPU cores."""
    sweep: tuple[str, ...] = ()
    """One run for every combination of values, as in learning_rate=1e-8,2e-8 seed=0,1; each has its folder in --run."""
    sweep_index: int | None = None
    """Which combination this start trains, from 0. Default: the SLURM array task's number."""
    sweep_list: bool = False
    """Print the combinations of --sweep with their numbers, and stop."""
    data: tuple[str, ...] = ()
    """Faces: folder:PATH, recordio:PATH, tfds:NAME or synthetic:IDENTITIESxIMAGES, several allowed.
    Default: the earlier run's."""
    image_size: int = 112
    """Height and width of the faces in pixels, a multiple of 4; taken from the earlier run, if there is one."""
    on_bad_image: BadImage = "refuse"
    """What to do about unreadable or misshapen images: refuse the data set, or skip them and list them."""
    cache: str = "auto"
    """Folder for rendered synthetic faces and compiled programs; auto: `cache` beside the run's folder; none: keep
    nothing."""
    split: SplitConfig = SplitConfig()
    """Who plays which part; taken from the earlier run when --data is not given."""
    seed: int = 0
    """Root of every random number of this run."""
    steps: int = 0
    """Training steps; 0: as many as --epochs asks for."""
    epochs: float = 100.0
    """Passes over the training images, when --steps is 0."""
    batch: int = 32
    """Images per step over all devices."""
    learning_rate: float = 1e-4
    """Learning rate (of recognisers: at its peak)."""
    dtype: Dtype = "float32"
    """What the networks compute in. Parameters, norms, losses and the projection stay float32."""
    accumulate: int = 1
    """Parts that each device's share of the batch is cut into: memory holds one part's activations, the update is of
    the whole batch. Batch norm takes its statistics of one part."""
    remat: Remat = "none"
    """Whether the networks' residual blocks are computed again in the backward pass (less memory, more time)."""
    devices: int = 0
    """Devices to use (of each process, where several share the job); 0: all of this machine."""
    parallel: Parallel = "pmap"
    """How steps are spread over devices; the results are the same."""
    feed: FeedKind = "auto"
    """Where the faces stay: resident, on every device; sharded, each device holds a part; streamed, on the disk (sets
    made by advcloak_jax.data.prepare) or in the host's memory; auto, the first that fits. Batches are the same."""
    feed_workers: int = 0
    """Processes that read and decode streamed faces; 0: threads of the training process."""
    steps_per_dispatch: int = 10
    """Training steps run in one compiled call; every other interval is a multiple of it."""
    log_every: int = 50
    """Steps between rows of metrics.csv."""
    checkpoint_every: int = 1000
    """Steps between checkpoints, each with a validation on held-out persons."""
    keep: int = 2
    """Newest checkpoints kept, beside the best one."""

    profile: str = ""
    """START:STOP: trace these steps with JAX's profiler into profile/ of the run's folder."""
    wandb: str = ""
    """Project of Weights & Biases to send metrics and samples to as well."""
    on_nan: OnNan = "stop"
    """When a loss or an update is no finite number: stop, with the last good checkpoint, or skip that step's update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.image_size >= 32, "--image-size must be at least 32.")
        require(self.image_size % 4 == 0, f"--image-size {self.image_size} must be a multiple of 4.")
        require_seed(self.seed)
        require(self.steps >= 0, "--steps must be 0 or more.")
        require(self.epochs > 0, "--epochs must be more than 0.")
        require(self.learning_rate > 0, "--learning-rate must be more than 0.")
        for name in ("batch", "accumulate", "steps_per_dispatch", "log_every", "checkpoint_every", "keep"):
            require(getattr(self, name) >= 1, f"{flag(name)} must be at least 1.")
        require(self.devices >= 0, "--devices must be 0 or more.")
        first, _, last = self.profile.partition(":")
        require(
            not self.profile or (first.isdecimal() and last.isdecimal() and int(first) < int(last)),
            f"--profile {self.profile} must be START:STOP, two step numbers as in 100:110.",
        )
        require(self.feed_workers >= 0, "--feed-workers must be 0 or more.")
        for name in ("log_every", "checkpoint_every"):
            require(
                getattr(self, name) % self.steps_per_dispatch == 0,
                f"{flag(name)} must be a multiple of --steps-per-dispatch {self.steps_per_dispatch}.",
            )
