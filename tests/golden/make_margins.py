"""Write margins.npz: what PyTorch in float64 says of every loss's value and gradients by the features and the weights.

Run where PyTorch is installed: `python tests/golden/make_margins.py`. The tests need only the .npz file beside it.
"""

from pathlib import Path

import numpy as np
import torch
from fill import uniform
from torch import nn
from twins_margins import LOSSES

HERE = Path(__file__).parent
CLASSES = 9


def main() -> None:
    features = torch.from_numpy(uniform("margins.features", (6, 16))).double().requires_grad_()
    weights = torch.from_numpy(uniform("margins.weights", (16, CLASSES))).double().requires_grad_()
    labels = torch.tensor([0, 3, 8, 2, 2, 5])
    with torch.no_grad():  # one angle beyond pi - margin, one close to 0, and one norm far from the others
        features[3] = -weights[:, 2] + 0.05 * features[3]
        features[4] = weights[:, 2] + 0.05 * features[4]
        features[5] *= 3
        features.copy_(features.float())  # as the tests read them
    cosine = nn.functional.normalize(features) @ nn.functional.normalize(weights, dim=0)
    answers = {"features": features, "labels": labels, "cosine": cosine}
    for name, twin in LOSSES.items():
        loss, extra = twin(features, weights, labels)
        by_features, by_weights = torch.autograd.grad(loss, (features, weights), retain_graph=True)
        answers |= {f"{name}_loss": loss, f"{name}_features": by_features, f"{name}_weights": by_weights}
        answers |= {f"{name}_{key}": value for key, value in extra.items()}
    arrays = {name: value.detach().numpy() for name, value in answers.items()}
    arrays = {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in arrays.items()}
    np.savez_compressed(HERE / "margins.npz", **arrays)
    print(f"margins.npz: {(HERE / 'margins.npz').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
