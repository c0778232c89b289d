"""The losses of recognisers once more, in PyTorch, from their published descriptions and not from the JAX code."""

import functools
from collections.abc import Callable

import torch
from torch import nn

Twin = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def cosines(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(features) @ nn.functional.normalize(weights, dim=0)


def one_hot(labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return nn.functional.one_hot(labels, weights.shape[1]).bool()


def softmax(
    features: torch.Tensor, weights: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    bias = torch.linspace(-1, 1, weights.shape[1], dtype=weights.dtype)
    return nn.functional.cross_entropy(features @ weights + bias, labels), {}


def arcface(
    features: torch.Tensor, weights: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    cosine = cosines(features, weights)
    margin = torch.tensor(0.5, dtype=cosine.dtype)
    phi = cosine * torch.cos(margin) - torch.sqrt(1 - cosine**2) * torch.sin(margin)
    threshold = torch.cos(torch.pi - margin)
    phi = torch.where(cosine > threshold, phi, cosine - torch.sin(torch.pi - margin) * margin)
    logits = 64 * torch.where(one_hot(labels, weights), phi, cosine)
    return nn.functional.cross_entropy(logits, labels), {"logits": logits}


def cosface(
    features: torch.Tensor, weights: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    cosine = cosines(features, weights)
    logits = 64 * (cosine - 0.35 * one_hot(labels, weights))
    return nn.functional.cross_entropy(logits, labels), {"logits": logits}


def adaface(
    features: torch.Tensor, weights: torch.Tensor, labels: torch.Tensor, mean: float, std: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One batch, from running statistics `mean` and `std`, which are returned as they are after it."""
    margin, concentration, rate, edge = 0.4, 0.333, 0.01, 1e-3
    sizes = features.detach().norm(dim=1).clamp(0.001, 100)
    new_mean, new_std = rate * sizes.mean() + (1 - rate) * mean, rate * sizes.std() + (1 - rate) * std
    scaler = (concentration * (sizes - new_mean) / (new_std + edge)).clamp(-1, 1)
    angle = torch.acos(cosines(features, weights).clamp(-1 + edge, 1 - edge))
    chosen = one_hot(labels, weights)
    angle = (angle - chosen * (margin * scaler)[:, None]).clamp(edge, torch.pi - edge)
    logits = 64 * (torch.cos(angle) - chosen * (margin + margin * scaler)[:, None])
    statistics = {"mean": new_mean, "std": new_std, "scaler": scaler}
    return nn.functional.cross_entropy(logits, labels), statistics


def sface(
    features: torch.Tensor, weights: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    scale, slope, a, b = 64, 80, 0.87, 1.2
    cosine = cosines(features, weights)
    angle = torch.acos(cosine.detach().clamp(-1, 1))
    pull = 1 / (1 + torch.exp(-slope * (angle - a)))
    push = 1 / (1 + torch.exp(slope * (angle - b)))
    total = torch.zeros((), dtype=cosine.dtype)
    for face, label in enumerate(labels):
        for person in range(weights.shape[1]):
            term = scale * cosine[face, person]
            total = total + (-pull[face, person] if person == label else push[face, person]) * term
    return total / len(labels), {}


LOSSES: dict[str, Twin] = {
    "softmax": softmax,
    "arcface": arcface,
    "cosface": cosface,
    "adaface_first": functools.partial(adaface, mean=20.0, std=100.0),
    "adaface_later": functools.partial(adaface, mean=3.0, std=1.0),
    "sface": sface,
}
