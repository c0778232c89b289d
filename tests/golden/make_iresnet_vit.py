"""Write the golden arrays of arcface_torch's iresnet and of the ViT: answers, and names and shapes of their tensors.

Run where PyTorch is installed: `python tests/golden/make_iresnet_vit.py`. The tests need only the .npz files beside it.
"""

import numpy as np
import torch
from fill import images
from make_golden import array, evaluated, filled, nchw, save, trained
from torch import nn
from twins import IResNet, MobileNet
from twins_iresnet_vit import ArcFaceIResNet, ViT

# Residual units of a stage, as published: He et al. for 18 and 34; face.evoLVe and arcface_torch for 50 and 100.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
TINY = {"units": (1, 2, 1, 1), "channels": (16, 32, 64, 128), "embedding": 16}


def sloped(network: nn.Module, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Features in evaluation mode and the gradient of their sum by every third pixel of the images."""
    x = nchw(inputs).requires_grad_()
    features = filled(network).eval()(x)
    features.sum().backward()
    assert x.grad is not None
    return {"evaluate": array(features), "gradient": array(x.grad)[:, ::3, ::3]}


def shapes(network: nn.Module) -> np.ndarray:
    """One line a tensor of the state dict: its name and its shape."""
    return np.array([" ".join([name, *map(str, value.shape)]) for name, value in network.state_dict().items()])


if __name__ == "__main__":
    torch.set_num_threads(1)
    small, full = images("recognizer.small", 8, 32), images("recognizer", 1, 112)
    save("iresnet50", evaluate=evaluated(ArcFaceIResNet(112), full))
    save("arcface_small", **trained(ArcFaceIResNet(32, **TINY), small))
    save("arcface_se_small", **trained(ArcFaceIResNet(32, **TINY, squeeze=True), small))
    save("vit", evaluate=evaluated(ViT(112), full))
    save("vit_small", **trained(ViT(32, 2, 2, 16), small), **sloped(ViT(32, 2, 2, 16), small[:2]))
    save(
        "iresnet_vit_shapes",
        **{f"ir{depth}": shapes(IResNet(112, units=units)) for depth, units in DEPTHS.items()},
        senet18=shapes(IResNet(112, units=DEPTHS[18], squeeze=True)),
        senet50=shapes(IResNet(112, units=DEPTHS[50], squeeze=True)),
        **{f"iresnet{depth}": shapes(ArcFaceIResNet(112, units=units)) for depth, units in DEPTHS.items()},
        iresnet_se50=shapes(ArcFaceIResNet(112, squeeze=True)),
        mobilenet=shapes(MobileNet(112)),
        vit=shapes(ViT(112)),
    )
