"""What stages are measured: their names and their sizes."""

from typing import NamedTuple

from advcloak_jax.recognizers.iresnet import UNITS
from advcloak_jax.recognizers.layers import scaled_channels

STAGE_ONE = "stage I"
SUBSPACES = ("plain", "affine-hull", "class-centre", "convex-hull")
"""The names of stage II's."""


class Size(NamedTuple):
    """Sizes of a stage: image side, widths of G and D, and the surrogate (name in the zoo, width, embedding)."""

    image: int = 112
    generator: int = 64
    discriminator: int = 32
    surrogate: str = "ir50"
    surrogate_width: float = 1.0
    embedding: int = 512

    @property
    def units(self) -> tuple[int, int, int, int]:
        """Units of the surrogate's stages."""
        return UNITS[int(self.surrogate.removeprefix("iresnet").removeprefix("ir"))]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the surrogate's stages."""
        return tuple(scaled_channels(count, self.surrogate_width) for count in (64, 128, 256, 512))


SIZES = {
    "full": Size(),
    "demo": Size(48, 16, 16, "ir18", 0.25, 128),
    "quick": Size(32, 8, 8, "ir18", 0.125, 32),
}
