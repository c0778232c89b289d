"""Black boxes under test: whatever turns uint8 faces into embeddings."""

import functools
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

from advcloak_jax import fingerprint
from advcloak_jax.data.rows import Images
from advcloak_jax.errors import UserError
from advcloak_jax.images import to_unit
from advcloak_jax.recognizers.convention import Convention
from advcloak_jax.recognizers.recognizer import embed


class Target(Protocol):
    """Anything that embeds faces; its parameters and gradients are nobody's business here."""

    name: str

    def embed(self, images: np.ndarray) -> np.ndarray:
        """[B, H, W, 3] uint8 RGB -> [B, d] float32 of unit norm."""
        ...

    def fingerprint(self) -> str | None:
        """Hash of everything that decides the embeddings; None when nothing can tell that it is still the same."""
        ...


@functools.partial(jax.jit, static_argnums=0)
def _embed(module: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    """uint8 faces [B, H, W, 3] -> embeddings [B, d]; one program for all recognisers of a network."""
    return embed(module, variables, to_unit(images))


class FlaxTarget:
    """A recogniser of our own, run in blocks of one size so that its network is compiled once."""

    def __init__(self, name: str, module: nn.Module, variables: Any, batch: int = 64) -> None:
        """`variables` as the module takes them; `batch` faces are embedded at a time, on the default device."""
        self.name = name
        self._module = module
        self._variables = jax.device_put(variables)
        self._batch = batch

    @property
    def convention(self) -> Convention:
        """What the network is fed. AttributeError for a network without a convention."""
        found: Convention = self._module.convention
        return found

    def with_convention(self, convention: Convention) -> "FlaxTarget":
        """The same network and variables, fed otherwise; compiled anew."""
        return FlaxTarget(self.name, self._module.clone(convention=convention), self._variables, self._batch)

    def fingerprint(self) -> str:
        """Hash of the network, its variables and the code that runs it."""
        code = [fingerprint.of_code(type(self._module).__module__), fingerprint.of_code(__name__)]
        return fingerprint.of_value([repr(self._module), fingerprint.of_tree(self._variables), code])

    def embed(self, images: Images) -> np.ndarray:
        """[B, H, W, 3] uint8 RGB -> [B, d] float32 of unit norm. Raises ValueError for no or other images.

        Images that are not in memory are read block by block.
        """
        require_faces(images)
        blocks = [
            _embed(self._module, self._variables, pad(images[start : start + self._batch], self._batch))
            for start in range(0, len(images), self._batch)
        ]
        return np.concatenate([np.asarray(block) for block in blocks])[: len(images)]


def require_faces(images: Images) -> None:
    """Raise ValueError unless these are uint8 faces [B, H, W, 3], at least one."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(f"uint8 faces [B, H, W, 3] are needed, not {images.dtype} {images.shape}")


def unit_norm(name: str, features: np.ndarray) -> np.ndarray:
    """Features [B, d] float32 of any norm -> embeddings of unit norm.

    Raises UserError, naming the recogniser, when they are not finite, or when a face got only zeros: nobody is found by
    them, cloak or not, and that would count as protection.
    """
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    if not np.isfinite(norm).all():
        raise UserError(
            f"{name} gave embeddings that are not finite: check how it is fed (mean, std; a scale of 0..255)."
        )
    if missing := int((norm < 1e-12).sum()):
        raise UserError(f"{name} gave only zeros for {missing} of {len(norm)} faces; it should embed every face.")
    return features / norm


def pad(images: np.ndarray, batch: int) -> np.ndarray:
    """Fill a last block up to `batch` with black images."""
    return np.pad(images, ((0, batch - len(images)), (0, 0), (0, 0), (0, 0)))
