"""OPOM and FI-UAP in PyTorch as their authors run them: one person after another, CVX for every image and step.

What the peer is given: the originals embedded once for a person, no gradient to the surrogate's weights, all of the
person's images as one batch, channels_last convolutions, and no CVX during the warm-up.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from advcloak_jax.cloaks import blocks, methods
from advcloak_jax.errors import UserError
from benchmarks.peers import device, networks
from benchmarks.peers.comparison import make_networks
from benchmarks.peers.hulls import cvxpy_rebuilt
from benchmarks.sizes import Size

NAMES = ("fi-uap", "opom-class-centre", "opom-convex-hull")


class OneByOne:
    """The method `name` on faces [P, N, H, W, C]; calling it makes all masks [P, H, W, C], person by person."""

    def __init__(self, name: str, size: Size, faces: np.ndarray, steps: int = 0, key: Any = None) -> None:
        if name not in NAMES:
            raise UserError(f"--peers {name} is not made by the peer; use {', '.join(NAMES)}.")
        self.name, self.settings = name, methods.method(name).settings(**({"steps": steps} if steps else {}))
        self.device = device.find()
        self.surrogate = make_networks(size).surrogate.to(self.device, memory_format=torch.channels_last)
        self.surrogate.eval().requires_grad_(False)
        self.faces = [self._layout(networks.to_nchw(person, self.device)) for person in faces]
        self.noise = [self._layout(networks.to_nchw(one, self.device)) for one in self._our_noise(faces, key)]

    def __call__(self) -> np.ndarray:
        """All persons' masks."""
        return np.stack([self.person(faces, noise) for faces, noise in zip(self.faces, self.noise, strict=True)])

    def person(self, faces: torch.Tensor, noise: torch.Tensor) -> np.ndarray:
        """Mask [H, W, C] of one person with faces [N, C, H, W]."""
        epsilon, size = self.settings.epsilon / 255, self.settings.step_size / 255
        with torch.no_grad():
            originals = self.embed(faces)
        centre = originals.mean(0, keepdim=True)
        features = originals.double().cpu().numpy()
        adversarial, mask = faces + noise, torch.zeros_like(faces[0])
        for step in range(self.settings.steps):
            adversarial = adversarial.detach().requires_grad_()
            embeddings = self.embed(adversarial)
            if self.name == "fi-uap":
                reference = originals
            elif self.name == "opom-class-centre" or step < self.settings.warmup_steps:
                reference = centre
            else:
                found = embeddings.detach().double().cpu().numpy()
                nearest = np.stack([cvxpy_rebuilt(features, one) @ features for one in found])
                reference = torch.from_numpy(nearest.astype(np.float32)).to(self.device)
            (embeddings - reference).square().sum().backward()
            assert adversarial.grad is not None
            with torch.no_grad():
                moved = (adversarial - faces).mean(0) + size * adversarial.grad.mean(0).sign()
                mask = moved.clamp(-epsilon, epsilon)
                adversarial = (faces + mask).clamp(0, 1)
        return np.moveaxis(mask.cpu().numpy(), 0, -1)

    def embed(self, faces: torch.Tensor) -> torch.Tensor:
        """Unit embeddings [N, d]."""
        return functional.normalize(self.surrogate(faces))

    def _layout(self, faces: torch.Tensor) -> torch.Tensor:
        return faces.contiguous(memory_format=torch.channels_last)

    def _our_noise(self, faces: np.ndarray, key: Any) -> np.ndarray:
        """The random start that our methods draw with `key`."""
        epsilon = self.settings.epsilon / 255
        keys = blocks.person_keys(jax.random.key(0) if key is None else key, len(faces))
        draw = jax.vmap(
            lambda key: jax.random.uniform(key, faces.shape[1:], jnp.float32, minval=-epsilon, maxval=epsilon)
        )
        return np.asarray(draw(keys))
