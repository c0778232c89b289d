"""Settings of the jobs that train a generator: stage I, stage II and the universal mask."""

import dataclasses
from typing import Literal

from advcloak_jax.config.checks import flag, require
from advcloak_jax.config.training import TrainConfig

Subspace = Literal["plain", "affine-hull", "class-centre", "convex-hull"]
Distance = Literal["cosine", "euclidean"]
Masks = Literal["person", "image"]
ProjectionSolver = Literal["loops", "kernel"]
WIDEST = 4096
NO_STAGE_ONE = "none"
"""What --generator says when stage II starts from fresh networks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorConfig(TrainConfig):
    """Train a generator of masks against a surrogate."""

    surrogate: str = "runs/recognizer"
    """Run folder of the recogniser to learn against."""
    images: int = 50_000
    """At most so many images of the generator's persons, drawn at random."""
    generator_width: int = 64
    """Channels of the generator's first layer."""
    beta1: float = 0.5
    """Adam's first decay rate."""
    beta2: float = 0.9
    """Adam's second decay rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.images >= 1, "--images must be at least 1.")
        require(1 <= self.generator_width <= WIDEST, f"--generator-width must be between 1 and {WIDEST}.")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"{flag(name)} must be in [0, 1).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniversalConfig(GeneratorConfig):
    """GAP: train a generator to make one mask for everybody."""

    run: str = "runs/universal"
    epsilon: float = 10.0
    """Largest change of a pixel, of 255; the mask is scaled down to it as a whole."""
    epochs: float = 10.0
    learning_rate: float = 2e-4
    beta2: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epsilon > 0, "--epsilon must be more than 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig(GeneratorConfig):
    """Stage I: train the generator to make one mask per image."""

    run: str = "runs/image"
    discriminator_width: int = 32
    """Channels of the discriminator's first layer."""
    lambda_norm: float = 1.0
    """Weight of the norm loss (lambda1 of Eq. 8)."""
    lambda_adversarial: float = 10.0
    """Weight of the adversarial loss (lambda2 of Eq. 8)."""
    norm_floor: float = 3.0
    """Norm below which a mask costs nothing (eps of Eq. 12, 13; [0, 1] scale, at 112x112; scaled to other sizes)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.discriminator_width <= WIDEST, f"--discriminator-width must be between 1 and {WIDEST}.")
        for name in ("lambda_norm", "lambda_adversarial", "norm_floor"):
            require(getattr(self, name) >= 0, f"{flag(name)} must be 0 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PersonConfig(ImageConfig):
    """Stage II: train the generator to make one mask per person."""

    run: str = "runs/person"
    generator: str = "runs/image"
    """Run folder of stage I, whose generator, discriminator and widths this job starts from; none: skip stage I and
    start from fresh networks (Fig. 3c), which needs --surrogate."""
    surrogate: str = ""
    """Run folder of the recogniser to learn against. Default: stage I's."""
    masks: Masks = "person"
    """One mask per person, or one per image: image-specific training in stage II's place, to compare with (Fig. 3d)."""
    persons: int = 2
    """Persons per step over all devices; --batch is this times --split.generator-images."""
    subspace: Subspace = "convex-hull"
    """What an embedding is pushed away from: its own original (plain), or a model of the person's feature subspace."""
    distance: Distance = "cosine"
    """Cosine to the nearest point of the subspace (the authors' code), or Euclidean distance to it (the paper)."""
    warmup_epochs: float = 40.0
    """Epochs for which the convex hull is replaced by the class centre, as early embeddings lie inside the hull."""
    lower: float = 0.0
    """Lower bound of the convex hull's weights."""
    upper: float = 1.0
    """Upper bound of the convex hull's weights."""
    projection_iterations: int = 20
    """Projected-gradient iterations of the hull projection."""
    projection_polish: int = 16
    """Active-set steps after them, which make the projection exact also where photos are nearly alike; 0: none."""
    projection_solver: ProjectionSolver = "loops"
    """The projection as XLA's loops, or as one kernel of a GPU (for 2, 4, 8, 16, 32 or 64 images of a person; compiled
    for GPUs and tested on CPUs, but not run on a GPU yet)."""
    learning_rate: float = 2e-8
    lambda_adversarial: float = 15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.persons >= 1, "--persons must be at least 1.")
        require(self.warmup_epochs >= 0, "--warmup-epochs must be 0 or more.")
        require(self.projection_iterations >= 1, "--projection-iterations must be at least 1.")
        require(self.projection_polish >= 0, "--projection-polish must be 0 or more.")
        require(self.lower <= self.upper, f"--lower {self.lower} must not exceed --upper {self.upper}.")
