"""Write the golden arrays: what PyTorch twins answer, on weights and images that fill.py makes from names.

Run where PyTorch is installed: `python tests/golden/make_golden.py`. The tests need only the .npz files beside it.
"""

from pathlib import Path

import numpy as np
import torch
import twins
from fill import images, tensor, uniform
from torch import nn

HERE = Path(__file__).parent
EVERY = 5  # pixels between the stored ones of full-size maps


def filled(network: nn.Module) -> nn.Module:
    """The network with every tensor set by its name."""
    state = network.state_dict()
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            value.copy_(torch.from_numpy(tensor(name, tuple(value.shape))))
    return network


def nchw(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()


def array(values: torch.Tensor) -> np.ndarray:
    """To NumPy, feature maps as NHWC."""
    values = values.detach()
    return (values.permute(0, 2, 3, 1) if values.ndim == 4 else values).numpy()


def evaluated(network: nn.Module, inputs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return array(filled(network).eval()(nchw(inputs)))


def trained(network: nn.Module, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Output in training mode and, by name, the running statistics after it."""
    with torch.no_grad():
        answers = {"train": array(filled(network).train()(nchw(inputs)))}
    running = {name: value.numpy() for name, value in network.state_dict().items() if "running" in name}
    return answers | running


def save(name: str, **arrays: np.ndarray) -> None:
    np.savez_compressed(HERE / f"{name}.npz", **arrays)
    print(f"{name}.npz: {(HERE / f'{name}.npz').stat().st_size / 1e3:.0f} kB")


def generator() -> None:
    network = filled(twins.Generator(64, 112)).eval()
    inputs = nchw(images("generator", 2, 112)).requires_grad_()
    masks = network(inputs)
    masks.backward(nchw(uniform("generator.cotangent", (2, 112, 112, 3))))
    assert inputs.grad is not None
    answers = trained(twins.Generator(64, 112), images("generator", 2, 112))
    answers |= {"evaluate": array(masks), "gradient": array(inputs.grad)}
    for name in ("train", "evaluate", "gradient"):
        answers[name] = answers[name][:, ::EVERY, ::EVERY]
    save("generator", **answers, **generator_gradient())


def generator_gradient() -> dict[str, np.ndarray]:
    """A small generator's gradient by its input, where no ReLU's input is so close to 0 that rounding may flip it."""
    network = filled(twins.Generator(8, 16)).eval()
    distances: list[float] = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, inputs, output: distances.append(inputs[0].abs().min().item()))
    for trial in range(100):
        distances.clear()
        inputs = nchw(images(f"generator.small.{trial}", 1, 16)).requires_grad_()
        masks = network(inputs)
        if min(distances) > 1e-5:
            masks.backward(nchw(uniform("generator.small.cotangent", (1, 16, 16, 3))))
            assert inputs.grad is not None
            return {"small_trial": np.array(trial), "small_gradient": array(inputs.grad)}
    raise RuntimeError("no input keeps every ReLU away from 0")


def discriminator() -> None:
    inputs = images("discriminator", 4, 112)
    evaluate = evaluated(twins.Discriminator(32), inputs)
    save("discriminator", evaluate=evaluate, **trained(twins.Discriminator(32), inputs))


def recognizers() -> None:
    """Full size in evaluation mode; small ones, batch 8, in training mode."""
    small = images("recognizer.small", 8, 32)
    full = images("recognizer", 1, 112)
    tiny = {"units": (1, 2, 1, 1), "channels": (16, 32, 64, 128), "embedding": 16}
    save("ir50", evaluate=evaluated(twins.IResNet(112), full))
    save("iresnet_small", **trained(twins.IResNet(32, **tiny), small))
    save("senet_small", **trained(twins.IResNet(32, **tiny, squeeze=True), small))
    save("senet18", evaluate=evaluated(twins.IResNet(112, units=(2, 2, 2, 2), squeeze=True), full))
    save("mobilenet", evaluate=evaluated(twins.MobileNet(112), full))
    save("mobilenet_small", **trained(twins.MobileNet(32, divide=8, embedding=16), small))


if __name__ == "__main__":
    torch.set_num_threads(1)
    generator()
    discriminator()
    recognizers()
