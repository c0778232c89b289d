"""Settings of recogniser training."""

import dataclasses
from typing import Literal

from advcloak_jax.config.checks import require
from advcloak_jax.config.training import TrainConfig

Margin = Literal["softmax", "arcface", "cosface", "adaface", "sface"]
Classifier = Literal["replicated", "sharded"]
Sampling = Literal["shuffled", "balanced"]
WIDEST = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecognizerConfig(TrainConfig):
    """Train a face recogniser, to be a surrogate or a black-box target."""

    run: str = "runs/recognizer"
    part: Literal["surrogate", "target"] = "surrogate"
    """Whose persons it trains on."""
    data: tuple[str, ...] = ("synthetic:600x20",)
    """Faces: folder:PATH, recordio:PATH, tfds:NAME or synthetic:IDENTITIESxIMAGES, several allowed."""
    architecture: str = "ir50"
    """Backbone, a name of the zoo."""
    width: float = 1.0
    """Multiplier of the backbone's channels."""
    embedding_size: int = 512
    """Length of an embedding."""
    dropout: float = 0.4
    """Dropout before the last dense layer."""
    margin: Margin = "arcface"
    """Loss: plain softmax, ArcFace, CosFace, AdaFace or SFace."""
    margin_scale: float = 64.0
    """Scale s of the cosine logits (not for softmax)."""
    margin_value: float | None = None
    """Margin m: an angle for ArcFace, a cosine for CosFace, both for AdaFace. Default: as published, 0.5, 0.35, 0.4."""
    adaface_h: float = 0.333
    """How far AdaFace's margin follows the norm of the feature."""
    adaface_rate: float = 0.01
    """Weight of a new batch in AdaFace's running statistics of the norms."""
    sface_k: float = 80.0
    """Slope of SFace's sigmoids."""
    sface_a: float = 0.87
    """Angle below which SFace's pull to the own class fades out."""
    sface_b: float = 1.2
    """Angle beyond which SFace's push from other classes fades out."""
    classifier: Classifier = "replicated"
    """Class weights on every device, or shared between the devices (for many persons); the results are the same."""
    sampling: Sampling = "shuffled"
    """Every image equally often, or every person (balanced)."""
    batch: int = 512
    epochs: float = 40.0
    learning_rate: float = 0.1
    momentum: float = 0.9
    """SGD momentum."""
    weight_decay: float = 5e-4
    """Weight decay of kernels (none on BatchNorm, PReLU and biases)."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    schedule: Literal["steps", "cosine"] = "steps"
    """Learning rate: divided by 10 at 50, 70 and 90 % of training, or a cosine to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.width <= WIDEST, f"--width must be more than 0 and at most {WIDEST}.")
        require(self.embedding_size >= 1, "--embedding-size must be at least 1.")
        require(0 <= self.dropout < 1, "--dropout must be in [0, 1).")
        require(self.margin_scale > 0, "--margin-scale must be more than 0.")
        require(self.margin_value is None or self.margin_value >= 0, "--margin-value must be 0 or more.")
        require(self.adaface_h >= 0, "--adaface-h must be 0 or more.")
        require(0 < self.adaface_rate <= 1, "--adaface-rate must be more than 0 and at most 1.")
        require(self.sface_k > 0, "--sface-k must be more than 0.")
        require(0 <= self.momentum < 1, "--momentum must be in [0, 1).")
        require(self.weight_decay >= 0, "--weight-decay must be 0 or more.")
        require(self.warmup_steps >= 0, "--warmup-steps must be 0 or more.")
