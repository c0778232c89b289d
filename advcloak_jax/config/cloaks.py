"""Settings of the ways of making masks, with the published values; pixels are on the scale 0..255 here."""

import dataclasses
import math
from typing import Literal

from advcloak_jax.config.checks import require

Normaliser = Literal["column", "image"]


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
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and field.name not in ("lower", "upper"):
                require(math.isfinite(value), f"{field.name}={value} must be a finite number.")
        require(self.steps >= 1, f"steps={self.steps} must be at least 1.")
        require(self.epsilon > 0, f"epsilon={self.epsilon} must be more than 0.")
        require(self.step_size > 0, f"step_size={self.step_size} must be more than 0.")


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
