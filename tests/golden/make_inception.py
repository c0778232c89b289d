"""Write the Inception-ResNets' golden arrays: what the PyTorch twins answer on fill.py's weights and images.

Run where PyTorch is installed: `python tests/golden/make_inception.py`. The tests need only the .npz files beside it.
"""

import numpy as np
import torch
import twins_inception as twins
from fill import images, uniform
from make_golden import array, evaluated, nchw, save, trained
from torch.nn import functional


def summarised(answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The running statistics, thousands of values, as one weighted sum of each tensor in the order of their names."""
    names = sorted(name for name in answers if "running" in name)
    sums = [(answers[name] * uniform(f"{name}.weights", answers[name].shape)).sum() for name in names]
    return {"train": answers["train"], "running": np.array(sums)}


def inception_resnet_v1() -> None:
    """Full size on 112x112 images that PyTorch enlarges; a small one in training at 112x112."""
    faces = functional.interpolate(
        nchw(images("recognizer", 1, 112)), (160, 160), mode="bicubic", align_corners=False, antialias=True
    )
    save("inception_resnet_v1", evaluate=evaluated(twins.InceptionResNetV1(), array(faces)))
    small = trained(twins.InceptionResNetV1(8, 16), images("recognizer.v1", 4, 112))
    save("inception_resnet_v1_small", **summarised(small))


def inception_resnet_v2() -> None:
    """All channels on one image, but few features (the dense layer has 221,184 inputs); a small one in training."""
    full = evaluated(twins.InceptionResNetV2(12, embedding=16), images("recognizer", 1, 112))
    save("inception_resnet_v2", evaluate=full)
    small = trained(twins.InceptionResNetV2(1, 8, 16), images("recognizer.v2", 8, 28))
    save("inception_resnet_v2_small", **summarised(small))


if __name__ == "__main__":
    torch.set_num_threads(1)
    inception_resnet_v1()
    inception_resnet_v2()
    for network in (twins.InceptionResNetV1(), twins.InceptionResNetV2(12)):
        print(type(network).__name__, sum(value.numel() for value in network.parameters()), "parameters")
