"""Settings of the ways of making masks, with the published values; pixels are on the scale 0..255 here."""

import dataclasses
from typing import Literal

from advcloak_jax.config.checks import as_setting, require, require_numbers

MOST_STEPS = 100_000
WIDEST_BLUR = 255
Normaliser = Literal["column", "image"]
SgaSubspace = Literal["plain", "class-centre", "affine-hull"]
HybridSubspace = Literal["plain", "class-centre", "affine-hull", "convex-hull"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """Steps along the sign of the gradient inside a box: FIM, FI-UAP, FI-UAP+, OPOM-ClassCenter, OPOM-AffineHull."""

    steps: int = 16
    """Gradient steps."""
    epsilon: float = 8.0
    """Largest change of a pixel, of 255."""
    step_size: float = 1.0
    """Change of a pixel by one step, of 255."""

    def __post_init__(self) -> None:
        require_numbers(self, as_setting)
        require(1 <= self.steps <= MOST_STEPS, f"steps={self.steps} must be between 1 and {MOST_STEPS}.")
        for name in ("epsilon", "step_size"):
            value = getattr(self, name)
            require(0 < value <= 255, f"{name}={value} must be more than 0 and at most 255.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HullSettings(AttackSettings):
    """Steps away from the person's convex hull (OPOM-ConvexHull)."""

    warmup_steps: int = 5
    """First steps, away from the class centre: early embeddings lie inside the hull, where its distance is 0."""
    lower: float = 0.0
    """Lower bound of the hull's weights."""
    upper: float = 1.0
    """Upper bound of the hull's weights."""
    projection_iterations: int = 50
    """Iterations of the hull projection."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.warmup_steps >= 0, f"warmup_steps={self.warmup_steps} must be 0 or more.")
        require(self.lower <= self.upper, f"lower={self.lower} must not exceed upper={self.upper}.")
        require(self.projection_iterations >= 1, "projection_iterations must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropoutSettings(AttackSettings):
    """The same with momentum and with dropout of the surrogate's feature maps (DFANet)."""

    steps: int = 100
    dropout: float = 0.1
    """Share of every feature map's values that is dropped, anew in every step."""
    normaliser: Normaliser = "column"
    """What a step's gradients are divided by before they are summed: their mean absolute value over the person's
    images, channels and rows, one per column (column: the released code), or each image's own (image: MI-FGSM)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.dropout < 1, f"dropout={self.dropout} must be in [0, 1).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropoutHullSettings(DropoutSettings, HullSettings):
    """Steps away from the convex hull, with momentum and with dropout of the feature maps (DFANet)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AggregationSettings(AttackSettings):
    """FI-UAP with the gradients of many small draws of images added up before each step (SGA-UAP)."""

    step_size: float = 0.8
    """Change of a pixel by one step, of 255, also by an inner one; published as a tenth of epsilon."""
    minibatch: int = 2
    """Images in a draw; at most as many as a person has."""
    rounds: int = 4
    """How often every image is drawn, on average, for one step."""
    momentum: float = 0.0
    """Share of the earlier direction that is kept; where it is used, published with 0.9."""
    subspace: SgaSubspace = "plain"
    """What embeddings are pushed away from: their own originals (as FI-UAP), or a subspace (as OPOM)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.minibatch >= 1, f"minibatch={self.minibatch} must be at least 1.")
        require(self.rounds >= 1, f"rounds={self.rounds} must be at least 1.")
        require(0 <= self.momentum < 1, f"momentum={self.momentum} must be in [0, 1).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowKeySettings:
    """LowKey: away from the original's features, smoothed or not, but not far from its looks."""

    steps: int = 50
    """Gradient steps."""
    step_size: float = 0.6375
    """Change of a pixel by one step, of 255."""
    noise: float = 1.275
    """Largest change of a pixel by the random start, of 255."""
    perceptual_weight: float = 0.05
    """Weight of the perceptual distance to the original."""
    perceptual_maps: int = 5
    """First feature maps of every surrogate that the perceptual distance compares, where it is not LPIPS."""
    alexnet: str = ""
    """torchvision's weights of AlexNet (.pth), for LPIPS itself."""
    lpips: str = ""
    """The linear layers of LPIPS for AlexNet (v0.1/alex.pth of the package lpips)."""
    blur_size: int = 7
    """Pixels along a side of the Gaussian window."""
    blur_sigma: float = 3.0
    """Standard deviation of the Gaussian window in pixels."""

    def __post_init__(self) -> None:
        require_numbers(self, as_setting)
        for name in ("noise", "perceptual_weight"):
            value = getattr(self, name)
            require(value >= 0, f"{name}={value} must be 0 or more.")
        require(1 <= self.steps <= MOST_STEPS, f"steps={self.steps} must be between 1 and {MOST_STEPS}.")
        require(self.step_size > 0, f"step_size={self.step_size} must be more than 0.")
        require(self.blur_sigma > 0, f"blur_sigma={self.blur_sigma} must be more than 0.")
        odd = self.blur_size % 2 == 1 and 1 <= self.blur_size <= WIDEST_BLUR
        require(odd, f"blur_size={self.blur_size} must be odd, between 1 and {WIDEST_BLUR}.")
        require(self.perceptual_maps >= 1, f"perceptual_maps={self.perceptual_maps} must be at least 1.")
        require(bool(self.alexnet) == bool(self.lpips), "alexnet= and lpips= name LPIPS' two files; give both or none.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HybridSettings:
    """A few steps of OPOM from a generator's mask, on the sphere of masks of one L2 norm."""

    start: str = ""
    """Run folder of the generator whose masks it starts from."""
    steps: int = 4
    """Gradient steps; each costs as much as one of OPOM."""
    norm: float = 1200.0
    """L2 norm of the masks in grey levels at 112x112; other image sizes get the same strength per pixel."""
    step_size: float = 0.1
    """Length of a step as a share of the norm. More fits the surrogate better and other recognisers worse."""
    momentum: float = 0.0
    """Share of the earlier steps' direction that is kept."""
    subspace: HybridSubspace = "convex-hull"
    """Model of the person's feature subspace that embeddings are pushed away from."""
    lower: float = 0.0
    """Lower bound of the convex hull's weights."""
    upper: float = 1.0
    """Upper bound of the convex hull's weights."""
    projection_iterations: int = 50
    """Iterations of the hull projection."""

    def __post_init__(self) -> None:
        require_numbers(self, as_setting)
        for name in ("norm", "step_size"):
            value = getattr(self, name)
            require(value > 0, f"{name}={value} must be more than 0.")
        require(1 <= self.steps <= MOST_STEPS, f"steps={self.steps} must be between 1 and {MOST_STEPS}.")
        require(0 <= self.momentum <= 1, f"momentum={self.momentum} must be in [0, 1].")
        require(self.lower <= self.upper, f"lower={self.lower} must not exceed upper={self.upper}.")
        require(self.projection_iterations >= 1, "projection_iterations must be at least 1.")
