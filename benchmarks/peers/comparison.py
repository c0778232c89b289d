"""A stage's peer set up as ours is: same weights, same faces, same labels; and how far their outputs differ."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from advcloak_jax import images, losses
from advcloak_jax.networks.discriminator import Discriminator
from advcloak_jax.networks.generator import Generator
from benchmarks import hardware, sizes, workloads
from benchmarks.peers import device as devices
from benchmarks.peers import networks, stages
from benchmarks.peers.batched_hull import Hulls
from benchmarks.peers.hulls import cvxpy_rebuilt
from benchmarks.sizes import Size

ITERATIONS = 20
"""Of the batched solver, as in our stage II."""


def make_networks(size: Size) -> networks.Networks:
    """The same fresh networks at every call."""
    backbone = networks.Backbone(size.units, size.channels, size.embedding)
    return networks.make(size.generator, size.discriminator, backbone, size.image)


def our_variables(size: Size) -> workloads.Variables:
    """The peer's weights as ours."""
    made = make_networks(size)
    return workloads.Variables(
        networks.to_flax(Generator(size.generator), made.generator, size.image, "generator"),
        networks.to_flax(Discriminator(size.discriminator), made.discriminator, size.image, "discriminator"),
        networks.to_flax(workloads.surrogate_module(size), made.surrogate, size.image, "evolve", size.units),
    )


def parameters(size: Size) -> dict[str, int]:
    """Trained values of each of the peer's networks."""
    return {name: networks.parameters(network) for name, network in make_networks(size)._asdict().items()}


class Peer:
    """One stage of one `way`; calling it makes a step on a batch that is always the same."""

    def __init__(self, kind: str, size: Size, faces: workloads.Faces, way: stages.Way, device: str) -> None:
        self.kind, self.per_person, self.batch = kind, faces.per_person, len(faces.pixels)
        config = workloads.settings(kind, self.batch, faces.per_person)
        weights = stages.Losses(
            config.lambda_norm,
            config.lambda_adversarial,
            images.mask_norm_at(size.image, config.norm_floor),
            config.learning_rate,
            (config.beta1, config.beta2),
        )
        shared = 1 if kind == sizes.STAGE_ONE else faces.per_person
        self.device = device
        self.stage = stages.Stage(make_networks(size), weights, shared, way, device)
        self.faces = networks.to_nchw(faces.unit, device)
        if way.channels_last:
            self.faces = self.faces.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            self.originals = self.stage.embed(self.faces)
        self.hulls = Hulls(self.originals.unflatten(0, (-1, faces.per_person)))
        self.persons = torch.arange(self.batch // faces.per_person, device=device)
        self.labels = self._labels(0)

    def step(self, number: int) -> dict[str, float]:
        """Losses of a step with the labels of step `number`."""
        return {name: float(value) for name, value in self._step(self._labels(number)).items()}

    def __call__(self) -> None:
        """One step, and the wait for it."""
        self._step(self.labels)
        devices.wait(self.device)

    def _step(self, labels: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.stage.way.as_authors:
            with torch.no_grad():
                self.originals = self.stage.embed(self.faces)
        return self.stage(self.faces, labels, self._reference())

    def _labels(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Our noisy labels of step `number`."""
        key = jax.random.fold_in(jax.random.key(0), number)
        real, fake = losses.soft_labels(key, jnp.arange(self.batch), self.batch)
        return tuple(torch.from_numpy(np.array(x)).to(self.device) for x in (real, fake))  # type: ignore[return-value]

    def _reference(self) -> Callable[[torch.Tensor], torch.Tensor]:
        match self.kind:
            case sizes.STAGE_ONE | "plain":
                return lambda _: self.originals
            case "class-centre":
                return lambda _: self.hulls.centres(self.persons, self.per_person)
            case "affine-hull":
                return lambda embeddings: self.hulls.nearest_affine(self.persons, embeddings)
        if self.stage.way.as_authors:
            return self._by_cvx
        return lambda embeddings: self.hulls.nearest(self.persons, embeddings, ITERATIONS)

    def _by_cvx(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Nearest points of the hulls, one CVX problem per image, on the CPU."""
        features = self.originals.unflatten(0, (-1, self.per_person)).double().cpu().numpy()
        found = [
            cvxpy_rebuilt(features[i // self.per_person], embedding) @ features[i // self.per_person]
            for i, embedding in enumerate(embeddings.double().cpu().numpy())
        ]
        return torch.from_numpy(np.array(found, np.float32)).to(self.device)


def compare(
    kind: str, size: Size, faces: workloads.Faces, ways: list[str], ours: list[dict[str, Any]]
) -> tuple[dict[str, Peer], dict[str, float]]:
    """The peer of each of `ways`, and how far its losses are from those of our steps, `ours`.

    A way whose step the device's memory cannot hold is left out.
    """
    device = devices.find()
    devices.forget()
    peers: dict[str, Peer] = {}
    differences: dict[str, float] = {}
    for name in ways:
        try:
            peer = Peer(kind, size, faces, stages.WAYS[name], device)
            differences[name] = agreement(ours, [peer.step(number) for number in range(len(ours))])
        except RuntimeError as error:
            if not hardware.is_too_large(error):
                raise
        else:
            peers[name] = peer
    return peers, differences


def tolerance(way: str, dtype: str) -> float:
    """Largest difference at which a way's outputs count as those of ours in `dtype`."""
    device = devices.find()
    precise = "bfloat16" if stages.WAYS[way].autocast else "float32"
    return max(devices.tolerance(device, precise), devices.tolerance(device, dtype))


def agreement(ours: list[dict[str, Any]], theirs: list[dict[str, float]]) -> float:
    """Largest relative difference of any loss of any step."""
    return max(
        abs(float(np.asarray(mine[name]).ravel()[0]) - value) / max(abs(value), 1e-6)
        for mine, other in zip(ours, theirs, strict=True)
        for name, value in other.items()
    )
