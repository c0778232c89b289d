"""Training of an iresnet as arcface_torch does it, CosFace on SGD, and ours on the same weights and faces."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.nn import functional

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers import margins, zoo
from advcloak_jax.recognizers.iresnet import UNITS
from advcloak_jax.training import state, steps
from advcloak_jax.training.recognizer_step import recognizer_step
from benchmarks import timing, workloads
from benchmarks.peers import device as devices
from benchmarks.peers import networks

CLASSES = 1000
MARGIN = margins.Margin("cosface", 64.0, 0.4)
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
WAYS = ("eager", "compile+channels_last")


def depth(name: str) -> int:
    """Depth of an arcface_torch backbone. Raises UserError for another one."""
    number = name.removeprefix("iresnet")
    if not name.startswith("iresnet") or not number.isdigit() or int(number) not in UNITS:
        raise UserError(f"--peers {name} is no iresnet of arcface_torch; use iresnet18, 34, 50, 100 or 200.")
    return int(number)


class Theirs:
    """The peer's step: mirrored faces, backbone, normalised class weights, margin, SGD with momentum and decay."""

    def __init__(self, network: torch.nn.Module, weights: np.ndarray, way: str, device: str) -> None:
        layout = torch.channels_last if "channels_last" in way else torch.contiguous_format
        self.network = network.train().to(device, memory_format=layout)
        self.layout = layout
        self.run = torch.compile(self.network) if way.startswith("compile") else self.network
        self.weights = torch.nn.Parameter(torch.from_numpy(weights.T.copy()).to(device))
        every = [*self.network.parameters(), self.weights]
        groups = [
            {"params": [p for p in every if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in every if p.ndim == 1 and p.requires_grad], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.SGD(groups, RATE, MOMENTUM, fused=True)

    def __call__(self, faces: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss of one step."""
        self.optimiser.zero_grad()
        features = self.run(faces.contiguous(memory_format=self.layout))
        cosine = functional.linear(functional.normalize(features), functional.normalize(self.weights))
        margin = functional.one_hot(labels, CLASSES) * MARGIN.value
        loss = functional.cross_entropy(MARGIN.scale * (cosine.clamp(-1, 1) - margin), labels)
        loss.backward()
        self.optimiser.step()
        return loss.detach()


class Ours:
    """Our step on the same weights; `mirrored` are the faces as it will see them in its step 0 and 1."""

    def __init__(self, module: Any, variables: Any, weights: np.ndarray, faces: np.ndarray, labels: np.ndarray) -> None:
        optimiser = optax.chain(
            optax.add_decayed_weights(DECAY, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params)),
            optax.sgd(RATE, momentum=MOMENTUM),
        )
        params = {
            "backbone": variables["params"],
            "classifier": {"weights": jnp.asarray(weights), "bias": jnp.zeros(CLASSES)},
        }
        self.state = state.RecognizerState(jnp.int32(0), params, variables["batch_stats"], optimiser.init(params))
        self.faces, self.labels = jnp.asarray(faces), jnp.asarray(labels)
        self.places = jnp.arange(len(labels), dtype=jnp.int32)
        step = recognizer_step(module, optimiser, MARGIN)
        mapped = jax.vmap(step, in_axes=(None, None), out_axes=None, axis_name=steps.DEVICES, axis_size=1)
        self.step = jax.jit(mapped, donate_argnums=0).lower(self.state, self._batch(0)).compile()
        self.number = 0

    def __call__(self) -> jax.Array:
        """Loss of one more step."""
        self.state, metrics = self.step(self.state, self._batch(self.number))
        self.number += 1
        return metrics["loss"]

    def mirrored(self, number: int) -> np.ndarray:
        """Faces [B, H, W, C] that step `number` sees."""
        flip_key, _ = jax.random.split(self._batch(number).key)
        return np.asarray(steps.mirror_half(self.faces, flip_key, self.places))

    def _batch(self, number: int) -> steps.RecognizerBatch:
        return steps.RecognizerBatch(
            self.faces, self.labels, self.places, jax.random.fold_in(jax.random.key(0), number)
        )


def compare(
    name: str, batch: int, repeats: int, *, size: int = 112, width: float = 1.0, keeps_memory: bool = True
) -> list[dict[str, Any]]:
    """Rows of ours and of the peer's ways; ratios only where parameters and losses are the same.

    keeps_memory: as jobs do (`heap`, `pieces`).
    """
    units = UNITS[depth(name)]
    module = zoo.build(name, width=width, dropout=0.0, axis_name=steps.DEVICES)
    channels = tuple(max(8, 8 * round(count * width / 8)) for count in (64, 128, 256, 512))
    backbone = networks.Backbone(units, channels, 512, "arcface_torch")
    rng = np.random.default_rng(0)
    weights = (0.01 * rng.standard_normal((512, CLASSES))).astype(np.float32)
    labels = rng.integers(0, CLASSES, batch).astype(np.int32)
    faces = workloads.noise_faces(batch, size, batch).unit
    twin = networks.make_backbone(backbone, size)
    ours = Ours(module, networks.to_flax(module, twin, size, "arcface_torch", units), weights, faces, labels)
    count = sum(leaf.size for leaf in jax.tree.leaves(ours.state.params["backbone"]))
    device = devices.find()
    devices.forget()
    seen = [networks.to_nchw(ours.mirrored(number), device) for number in range(2)]
    losses = [float(ours()) for _ in range(2)]
    targets = torch.from_numpy(labels).long().to(device)
    calls: dict[str, Any] = {"ours": ours}
    differences: dict[str, float] = {}
    for way in WAYS:
        network = networks.make_backbone(backbone, size)
        network.features.weight.requires_grad_(False)  # type: ignore[union-attr]
        if networks.parameters(network) != count:
            raise RuntimeError(f"numbers of parameters differ: ours {count}, the peer's {networks.parameters(network)}")
        theirs = Theirs(network, weights, way, device)
        made = [float(theirs(pictures, targets)) for pictures in seen]
        differences[way] = max(abs(a - b) / abs(b) for a, b in zip(losses, made, strict=True))
        calls[way] = lambda theirs=theirs: float(theirs(seen[0], targets))
    found = timing.alternate(calls, repeats, hold_pieces=keeps_memory)
    rows = []
    for way, one in found.items():
        row: dict[str, Any] = {"backbone": name, "way": way, "parameters": count, "batch": batch}
        row["training_images_per_second"] = one.rates(batch)
        if way in differences:
            row["difference"] = differences[way]
            row["same_outputs"] = differences[way] <= devices.tolerance(device, "float32")
            if row["same_outputs"]:
                row["ours_is_faster"] = timing.per_item(found["ours"], one)
        rows.append(row)
    return rows
