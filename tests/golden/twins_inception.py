"""The Inception-ResNets once more, in PyTorch, from their published descriptions and not from the Flax code.

v1 has facenet-pytorch's names; v2, which nobody published in PyTorch with this stem, has the Flax modules' names.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

Channels = Callable[[int], int]
EPS = 1e-3


class Basic(nn.Module):
    """Convolution, batch norm and (mostly) ReLU; `names` of the first two."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        *,
        names: tuple[str, str],
        act: bool = True,
    ) -> None:
        super().__init__()
        self.names, self.act = names, act
        self.add_module(names[0], nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False))
        self.add_module(names[1], nn.BatchNorm2d(outputs, eps=EPS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.names:
            x = self.get_submodule(name)(x)
        return functional.relu(x) if self.act else x


Spec = tuple[int, int | tuple[int, int], int, int | tuple[int, int]]  # channels, kernel, stride, padding


def chain(inputs: int, specs: Sequence[Spec], scaled: Channels, names: tuple[str, str]) -> list[Basic]:
    layers = []
    for outputs, kernel, stride, padding in specs:
        layers.append(Basic(inputs, scaled(outputs), kernel, stride, padding, names=names))
        inputs = scaled(outputs)
    return layers


def one(channels: int) -> Spec:
    return (channels, 1, 1, 0)


def three(channels: int) -> Spec:
    return (channels, 3, 1, 1)


def down(channels: int) -> Spec:
    return (channels, 3, 2, 0)


def divided(divide: int) -> Channels:
    """All of the channels, or one in `divide` of them, to a multiple of 8."""
    return lambda channels: channels if divide == 1 else max(8, 8 * round(channels / divide / 8))


class FacenetMixed(nn.Module):
    """Branches as attributes branch0, branch1, ...; with `scale` a residual block with projection conv2d."""

    def __init__(
        self, inputs: int, branches: Sequence[Sequence[Spec]], scaled: Channels, scale: float | None, act: bool = True
    ) -> None:
        super().__init__()
        self.scale, self.act = scale, act
        self.count = len(branches)
        outputs = 0
        for b, specs in enumerate(branches):
            layers = chain(inputs, specs, scaled, ("conv", "bn"))
            self.add_module(f"branch{b}", layers[0] if len(layers) == 1 else nn.Sequential(*layers))
            outputs += scaled(specs[-1][0])
        self.outputs = outputs + inputs
        if scale is not None:
            self.conv2d = nn.Conv2d(outputs, inputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [self.get_submodule(f"branch{b}")(x) for b in range(self.count)]
        if self.scale is None:
            return torch.cat([*found, functional.max_pool2d(x, 3, 2)], 1)
        x = x + self.scale * self.conv2d(torch.cat(found, 1))
        return functional.relu(x) if self.act else x


class InceptionResNetV1(nn.Module):
    """facenet-pytorch's network up to the embedding's batch norm, for images in [0, 1] at the network's size."""

    def __init__(self, divide: int = 1, embedding: int = 512) -> None:
        super().__init__()
        n, basic = divided(divide), {"names": ("conv", "bn")}
        self.conv2d_1a = Basic(3, n(32), 3, 2, **basic)
        self.conv2d_2a = Basic(n(32), n(32), 3, **basic)
        self.conv2d_2b = Basic(n(32), n(64), 3, 1, 1, **basic)
        self.conv2d_3b = Basic(n(64), n(80), **basic)
        self.conv2d_4a = Basic(n(80), n(192), 3, **basic)
        self.conv2d_4b = Basic(n(192), n(256), 3, 2, **basic)
        a = [[one(32)], [one(32), three(32)], [one(32), three(32), three(32)]]
        b = [[one(128)], [one(128), (128, (1, 7), 1, (0, 3)), (128, (7, 1), 1, (3, 0))]]
        c = [[one(192)], [one(192), (192, (1, 3), 1, (0, 1)), (192, (3, 1), 1, (1, 0))]]
        self.repeat_1 = nn.Sequential(*[FacenetMixed(n(256), a, n, 0.17) for _ in range(5)])
        self.mixed_6a = FacenetMixed(n(256), [[down(384)], [one(192), three(192), down(256)]], n, None)
        middle = self.mixed_6a.outputs
        self.repeat_2 = nn.Sequential(*[FacenetMixed(middle, b, n, 0.10) for _ in range(10)])
        ends = [[one(256), down(384)], [one(256), down(256)], [one(256), three(256), down(256)]]
        self.mixed_7a = FacenetMixed(middle, ends, n, None)
        last = self.mixed_7a.outputs
        self.repeat_3 = nn.Sequential(*[FacenetMixed(last, c, n, 0.20) for _ in range(5)])
        self.block8 = FacenetMixed(last, c, n, 1.0, act=False)
        self.last_linear = nn.Linear(last, embedding, bias=False)
        self.last_bn = nn.BatchNorm1d(embedding, eps=EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x * 255 - 127.5) / 128
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = functional.max_pool2d(x, 3, 2)
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x)))
        x = self.repeat_2(self.mixed_6a(self.repeat_1(x)))
        x = self.block8(self.repeat_3(self.mixed_7a(x)))
        return self.last_bn(self.last_linear(x.mean((2, 3))))


class Mixed(nn.Module):
    """Side-by-side branches of InsightFace's network, with an optional max pooling of the input."""

    def __init__(self, inputs: int, branches: Sequence[Sequence[Spec]], scaled: Channels, pooled: bool = False) -> None:
        super().__init__()
        self.lengths, self.pooled = [len(specs) for specs in branches], pooled
        self.outputs = sum(scaled(specs[-1][0]) for specs in branches) + inputs * pooled
        for b, specs in enumerate(branches):
            for i, layer in enumerate(chain(inputs, specs, scaled, ("conv", "norm"))):
                self.add_module(f"branch_{b}_{i}", layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = []
        for b, length in enumerate(self.lengths):
            y = x
            for i in range(length):
                y = self.get_submodule(f"branch_{b}_{i}")(y)
            found.append(y)
        if self.pooled:
            found.append(functional.max_pool2d(x, 3, 2))
        return torch.cat(found, 1)


class Block(nn.Module):
    def __init__(
        self, inputs: int, branches: Sequence[Sequence[Spec]], scaled: Channels, scale: float, act: bool = True
    ) -> None:
        super().__init__()
        self.scale, self.act = scale, act
        self.mixed = Mixed(inputs, branches, scaled)
        self.project = Basic(self.mixed.outputs, inputs, names=("conv", "norm"), act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.scale * self.project(self.mixed(x))
        return functional.relu(x) if self.act else x


class Head(nn.Module):
    def __init__(self, channels: int, side: int, embedding: int) -> None:
        super().__init__()
        self.norm_map = nn.BatchNorm2d(channels)
        self.dense = nn.Linear(channels * side * side, embedding)
        self.norm_embedding = nn.BatchNorm1d(embedding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm_embedding(self.dense(self.norm_map(x).flatten(1)))


class InceptionResNetV2(nn.Module):
    """finception_resnet_v2 with head E, for images in [0, 1]; `side` of the last map."""

    def __init__(self, side: int, divide: int = 1, embedding: int = 512) -> None:
        super().__init__()
        n, names = divided(divide), ("conv", "norm")
        stem = [(32, 3, 1, 0), (32, 3, 1, 0), three(64), one(80), (192, 3, 1, 0)]
        for i, layer in enumerate(chain(3, stem, n, names)):
            self.add_module(f"stem_{i}", layer)
        self.mixed = Mixed(n(192), [[one(96)], [one(48), (64, 5, 1, 2)], [one(64), three(96), three(96)]], n)
        self.averaged = Basic(n(192), n(64), names=names)
        a = [[one(32)], [one(32), three(32)], [one(32), three(48), three(64)]]
        b = [[one(192)], [one(129), (160, (1, 7), 1, (1, 2)), (192, (7, 1), 1, (2, 1))]]
        c = [[one(192)], [one(192), (224, (1, 3), 1, (0, 1)), (256, (3, 1), 1, (1, 0))]]
        first = self.mixed.outputs + n(64)
        self.order = []
        self._blocks("block_a", 10, first, a, n, 0.17)
        reduction = Mixed(first, [[down(384)], [one(256), three(256), down(384)]], n, pooled=True)
        self._append("reduction_a", reduction)
        self._blocks("block_b", 20, reduction.outputs, b, n, 0.10)
        ends = [[one(256), down(384)], [one(256), down(288)], [one(256), three(288), down(320)]]
        reduction = Mixed(reduction.outputs, ends, n, pooled=True)
        self._append("reduction_b", reduction)
        self._blocks("block_c", 9, reduction.outputs, c, n, 0.20)
        self._append("block_c_9", Block(reduction.outputs, c, n, 1.0, act=False))
        self._append("last", Basic(reduction.outputs, n(1536), names=names))
        self._append("head", Head(n(1536), side, embedding))

    def _append(self, name: str, module: nn.Module) -> None:
        self.order.append(name)
        self.add_module(name, module)

    def _blocks(
        self, name: str, count: int, channels: int, branches: Sequence[Sequence[Spec]], scaled: Channels, scale: float
    ) -> None:
        for i in range(count):
            self._append(f"{name}_{i}", Block(channels, branches, scaled, scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x * 255 - 127.5) * 0.0078125
        for i in range(5):
            x = self.get_submodule(f"stem_{i}")(x)
        x = functional.max_pool2d(x, 3, 2)
        averaged = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=True)
        x = torch.cat([self.mixed(x), self.averaged(averaged)], 1)
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x
