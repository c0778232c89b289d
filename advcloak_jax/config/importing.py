"""Settings of the import of published weights."""

import dataclasses
from typing import Literal

import tyro

from advcloak_jax.config.checks import require
from advcloak_jax.config.start import StartConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportConfig(StartConfig):
    """Turn published weights into a run folder that serves as surrogate or target. Nothing in a file is executed."""

    file: tyro.conf.Positional[str]
    """PyTorch .pth, .pt or .ckpt, .safetensors, or MXNet NAME-symbol.json with NAME-0000.params beside it."""
    architecture: str = "auto"
    """Name of the zoo whose weights these are; auto: told by the names and shapes of the tensors."""
    run: str = ""
    """Folder to make. Default: runs/ and the file's name."""
    name: str = ""
    """What tables call it. Default: the run folder's name."""
    key: str = ""
    """Where in the file the tensors are, when it holds several sets of them."""
    output: str = ""
    """MXNet: the node that gives the embedding, when the graph has other outputs."""
    mean: tuple[float, ...] = ()
    """Grey levels subtracted from the pixels 0..255: one number or three. Default: the architecture's usual ones."""
    std: tuple[float, ...] = ()
    """Grey levels that the difference is divided by: one number or three."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels that the network was trained with."""
    origin: str = ""
    """Where the weights come from and under which licence; kept with them and shown by `evaluate.py targets`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            values = getattr(self, name)
            require(len(values) in (0, 1, 3), f"--{name} takes one number or three.")
        require(0.0 not in self.std, "--std must not be 0.")
