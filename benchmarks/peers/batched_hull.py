"""A batched solver of the hull projection in PyTorch: what a user would write who left CVX behind."""

import torch

from benchmarks.peers.device import exact_products


class Hulls:
    """Persons' subspaces, prepared once: centred features [P, m, d], their Gram matrix and its largest eigenvalue."""

    @exact_products()
    def __init__(self, features: torch.Tensor) -> None:
        self.centre = features.mean(1, keepdim=True)
        self.rows = features - self.centre
        gram = self.rows @ self.rows.transpose(1, 2)
        self.scale = torch.linalg.eigvalsh(gram)[:, -1, None, None]
        self.gram = gram / self.scale

    @torch.no_grad()
    @exact_products()
    def weights(self, persons: torch.Tensor, embeddings: torch.Tensor, iterations: int) -> torch.Tensor:
        """Weights [p, n, m] of the points of the hulls of `persons` [p] nearest to embeddings [p * n, d].

        By accelerated projected gradient, the same algorithm as ours.
        """
        gram = self.gram[persons]
        offset = embeddings.unflatten(0, (len(persons), -1)) - self.centre[persons]
        linear = offset @ self.rows[persons].transpose(1, 2) / self.scale[persons]
        weights = torch.full_like(linear, 1 / linear.shape[-1])
        ahead, momentum = weights, 1.0
        for _ in range(iterations):
            new = _onto_simplex(ahead - (ahead @ gram - linear))
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = new + (momentum - 1) / following * (new - weights)
            weights, momentum = new, following
        return weights

    @torch.no_grad()
    @exact_products()
    def nearest(self, persons: torch.Tensor, embeddings: torch.Tensor, iterations: int) -> torch.Tensor:
        """Those points [p * n, d]."""
        found = self.weights(persons, embeddings, iterations)
        return (self.centre[persons] + found @ self.rows[persons]).flatten(0, 1)

    @torch.no_grad()
    @exact_products()
    def nearest_affine(self, persons: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """The same for the affine hulls, in closed form."""
        centre, rows = self.centre[persons], self.rows[persons]
        offset = (embeddings.unflatten(0, (len(persons), -1)) - centre).transpose(1, 2)
        weights = torch.linalg.pinv(rows.transpose(1, 2), rtol=1e-3) @ offset
        return (centre + weights.transpose(1, 2) @ rows).flatten(0, 1)

    @torch.no_grad()
    def centres(self, persons: torch.Tensor, count: int) -> torch.Tensor:
        """Class centres of `persons` [p], each `count` times."""
        return self.centre[persons, 0].repeat_interleave(count, 0)


def _onto_simplex(values: torch.Tensor) -> torch.Tensor:
    """Nearest weights [..., m] of sum 1 that are not negative, by sorting."""
    ordered = values.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    places = torch.arange(1, values.shape[-1] + 1, device=values.device)
    used = (ordered * places > excess).sum(-1, keepdim=True)
    threshold = excess.gather(-1, used - 1) / used
    return (values - threshold).clamp(min=0)
