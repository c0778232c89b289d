"""Write mobilefacenet_*.npz: what PyTorch twins of every published naming answer, and the shapes of their tensors.

Run where PyTorch is installed: `python tests/golden/make_mobilefacenet.py`.
"""

from collections.abc import Callable

import numpy as np
import torch
from fill import images, uniform
from make_golden import HERE, array, filled, nchw, trained
from torch import nn
from twins_mobilefacenet import Foamliu, InsightFace, Trebien, Xiaoccer

EVERY = 3  # pixels between the stored ones of the gradients

FEW = (1, 2, 1, 1)  # units of a small network

# Each at its published size, and a narrow one with the (height, width) of its images.
NETWORKS: dict[str, tuple[nn.Module, Callable[[], nn.Module] | None, tuple[int, int]]] = {
    "xiaoccer": (Xiaoccer(), lambda: Xiaoccer(8, 16, (3, 2), FEW), (48, 32)),
    "trebien": (Trebien(), lambda: Trebien(8, 16, (2, 2)), (32, 32)),
    "trebien_output_layer": (Trebien(below=True), None, (32, 32)),
    "insightface": (InsightFace(), lambda: InsightFace(8, 16, 2, FEW), (32, 32)),
    "insightface_large": (
        InsightFace(1, 512, 7, (2, 8, 12, 4), 4),
        lambda: InsightFace(8, 16, 2, (2, 1, 1, 1), 4),
        (32, 32),
    ),
    "foamliu": (Foamliu(), lambda: Foamliu(8, 16, 2, FEW), (32, 32)),
}


def shapes(network: nn.Module) -> dict[str, np.ndarray]:
    """Names of a state dict, their shapes (padded with 0 to four numbers) and how many numbers are learnt."""
    state = network.state_dict()
    return {
        "names": np.array(list(state)),
        "shapes": np.array([[*value.shape, 0, 0, 0, 0][:4] for value in state.values()], np.int32),
        "parameters": np.array(sum(value.numel() for value in network.parameters())),
    }


def answers(build: Callable[[], nn.Module], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Features in evaluation mode with a gradient by the image; in training mode, with the statistics after it.

    Of every running statistic one weighted sum, in the order of their names.
    """
    network = filled(build()).eval()
    batch = images("mobilefacenet", 8, max(size))[:, : size[0], : size[1]]
    inputs = nchw(batch[:2]).requires_grad_()
    features = network(inputs)
    features.backward(torch.from_numpy(uniform("mobilefacenet.cotangent", tuple(features.shape))))
    assert inputs.grad is not None
    training = trained(build(), batch)
    running = sorted(name for name in training if "running" in name)
    sums = [(training[name] * uniform(f"{name}.weights", training[name].shape)).sum() for name in running]
    return {
        "evaluate": array(features),
        "gradient": array(inputs.grad)[:, ::EVERY, ::EVERY],
        "train": training["train"],
        "running": np.array(sums),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, (full, small, size) in NETWORKS.items():
        path = HERE / f"mobilefacenet_{name}.npz"
        np.savez_compressed(path, **shapes(full), **({} if small is None else answers(small, size)))
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
