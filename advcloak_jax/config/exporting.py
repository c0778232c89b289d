"""Settings of the export of trained networks."""

import dataclasses
from typing import Literal

import tyro

from advcloak_jax.config.checks import require
from advcloak_jax.config.start import StartConfig

Format = Literal["safetensors", "stablehlo", "onnx"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(StartConfig):
    """Write the generator of a stage, or a recogniser, for use without its run folder and without this package."""

    run: tyro.conf.Positional[str]
    """Run folder of a stage, or of a trained or imported recogniser."""
    out: tyro.conf.Positional[str]
    """Folder to make."""
    formats: tuple[Format, ...] = ("safetensors", "stablehlo")
    """What to write beside export.json: the weights, the functions as StableHLO (jax.export), or as ONNX."""
    image_size: int = 0
    """Imported recognisers: side of the faces that it will be given. Default: what its network reads."""

    def __post_init__(self) -> None:
        require(len(self.formats) > 0, "--formats needs at least one of safetensors, stablehlo, onnx.")
        require(self.image_size == 0 or self.image_size >= 32, "--image-size must be at least 32.")
