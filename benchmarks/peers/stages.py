"""The training steps of both stages the way a PyTorch user would write them. Needs requirements-peers.txt.

What the peer is given: one forward pass of the generator a step, a fused Adam, no gradient to the surrogate's weights,
and, but in the authors' way, the originals' embeddings once for all and a batched solver for the hull. Convolutions in
NCHW or channels_last, eager or compiled, float32 or autocast to bfloat16.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.networks import Networks


class Way(NamedTuple):
    """How the peer runs: as written or compiled, memory format, autocast, and what it does about the originals."""

    compiled: bool = False
    channels_last: bool = False
    autocast: bool = False
    as_authors: bool = False
    """The surrogate sees the originals anew in every step, and CVX solves one hull after another."""


WAYS = {
    "eager": Way(),
    "eager+channels_last": Way(channels_last=True),
    "compile": Way(compiled=True),
    "compile+channels_last": Way(compiled=True, channels_last=True),
    "compile+channels_last+autocast": Way(compiled=True, channels_last=True, autocast=True),
    "authors": Way(as_authors=True),
}
"""By the names they have on the command line; those that autocast compute in bfloat16, the others in float32."""


class Losses(NamedTuple):
    """Weights and floor of the losses, rate and decay of Adam."""

    norm: float
    adversarial: float
    floor: float
    learning_rate: float
    betas: tuple[float, float]


Reference = Callable[[torch.Tensor], torch.Tensor]
"""Protected images' embeddings [B, d] -> what each is pushed away from [B, d], a constant."""


class Stage:
    """One stage's step. per_person: images that share a mask; 1 is stage I."""

    def __init__(self, networks: Networks, losses: Losses, per_person: int, way: Way, device: str = "cpu") -> None:
        self.way, self.losses, self.per_person, self.device = way, losses, per_person, device
        layout = torch.channels_last if way.channels_last else torch.contiguous_format
        self.networks = Networks(*(network.to(device, memory_format=layout) for network in networks))
        self.networks.generator.train()
        self.networks.discriminator.train()
        self.networks.surrogate.eval().requires_grad_(False)
        # PyTorch's own compiler is told nothing but the defaults, as most would.
        self.run = Networks(*(torch.compile(n) for n in self.networks)) if way.compiled else self.networks
        self.optimisers = [
            torch.optim.Adam(n.parameters(), losses.learning_rate, losses.betas, fused=True)
            for n in (self.networks.generator, self.networks.discriminator)
        ]
        self.bce = nn.BCEWithLogitsLoss()

    def autocast(self) -> Any:
        """The context in which the networks run."""
        if not self.way.autocast:
            return contextlib.nullcontext()
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)

    def embed(self, faces: torch.Tensor) -> torch.Tensor:
        """Unit embeddings [B, d] float32."""
        with self.autocast():
            features = self.run.surrogate(faces)
        return functional.normalize(features.float())

    def __call__(
        self,
        faces: torch.Tensor,
        labels: tuple[torch.Tensor, torch.Tensor],
        reference: Reference,
    ) -> dict[str, torch.Tensor]:
        """One D step, then one G step: faces [B, C, H, W] in [0, 1], labels (real [B], fake [B]); the losses."""
        if self.way.channels_last:
            faces = faces.contiguous(memory_format=torch.channels_last)
        for_generator, for_discriminator = self.optimisers
        with self.autocast():
            raw = self.run.generator(faces)
        masks = raw.float().unflatten(0, (-1, self.per_person)).mean(1)
        protected = (faces + masks.repeat_interleave(self.per_person, 0)).clamp(0, 1)

        for_discriminator.zero_grad()
        with self.autocast():
            real, fake = self.run.discriminator(faces), self.run.discriminator(protected.detach())
        value = sum(
            self.bce(logits.float(), label.view(-1, 1, 1, 1).expand_as(logits))
            for logits, label in ((real, labels[0]), (fake, labels[1]))
        )
        assert isinstance(value, torch.Tensor)
        value.backward()
        for_discriminator.step()

        for_generator.zero_grad()
        self.networks.discriminator.requires_grad_(False)
        with self.autocast():
            logits = self.run.discriminator(protected)
        fooling = self.bce(logits.float(), torch.ones_like(logits, dtype=torch.float32))
        norm = masks.flatten(1).norm(dim=1).clamp(min=self.losses.floor).mean()
        embeddings = self.embed(protected)
        adversarial = functional.cosine_similarity(embeddings, reference(embeddings.detach())).mean()
        total = fooling + self.losses.norm * norm + self.losses.adversarial * adversarial
        total.backward()
        self.networks.discriminator.requires_grad_(True)
        for_generator.step()
        return {
            "generator": total.detach(),
            "gan": fooling.detach(),
            "norm": norm.detach(),
            "adversarial": adversarial.detach(),
            "discriminator": value.detach(),
        }
