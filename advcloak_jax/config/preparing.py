"""Settings of the preparation of data sets."""

import dataclasses
from typing import Literal

import tyro

from advcloak_jax.config.checks import require
from advcloak_jax.config.start import StartConfig
from advcloak_jax.config.training import BadImage

Encoding = Literal["jpeg", "raw"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig(StartConfig):
    """Turn faces into a data set for `--data tfds:OUT`, whose pictures stay on disk and can be streamed."""

    source: tyro.conf.Positional[str]
    """folder:PATH, a sub-folder of images per identity, or recordio:PATH, an InsightFace train.rec or its folder."""
    out: tyro.conf.Positional[str]
    """Folder to make. OUT.partial holds what is done until then: the same command goes on from there."""
    encoding: Encoding = "jpeg"
    """jpeg: JPEG files of the right size are kept byte for byte, other images are encoded; raw: pixels, some seven
    times as large and quicker to read."""
    image_size: int = 112
    """Height and width of the prepared images in pixels, a multiple of 4; others are resized."""
    jpeg_quality: int = 95
    """Quality of images that are encoded as JPEG, 1 to 100, without chroma subsampling."""
    shard_images: int = 8192
    """Images per file; an interruption loses at most the file that is being written."""
    on_bad_image: BadImage = "skip"
    """What to do about unreadable or misshapen images: leave them out and list them in OUT/report.txt, or stop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.image_size >= 32, "--image-size must be at least 32.")
        require(self.image_size % 4 == 0, f"--image-size {self.image_size} must be a multiple of 4.")
        require(1 <= self.jpeg_quality <= 100, "--jpeg-quality must be between 1 and 100.")
        require(self.shard_images >= 1, "--shard-images must be at least 1.")
