"""MobileFaceNet in PyTorch under each of its published names, written from the published tensors and descriptions.

`divide` divides every channel count; the inputs of all are pixels in [0, 1].
"""

from collections.abc import Sequence

import torch
from torch import nn

# (channels inside, channels out, units) of each stage; the first unit of a stage halves the map unless it is stage 0.
STAGES = ((128, 64), (256, 128), (512, 128))


COUNTS = (1, 4, 6, 2)


def units(divide: int, scale: int, counts: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """(inputs, inside, outputs, stride) of every unit after the stem; `counts` of stride 1 on each of four maps."""
    found, inputs = [], 64 * scale // divide
    if counts[0] > 1:
        found += [(inputs, 128 // divide, inputs, 1)] * counts[0]
    for (inside, channels), count in zip(STAGES, counts[1:], strict=True):
        outputs = channels * scale // divide
        found.append((inputs, inside // divide, outputs, 2))
        # After a map is halved, the units on it have twice their inputs inside (for scale 1).
        found += [(outputs, 2 * channels // divide, outputs, 1)] * count
        inputs = outputs
    return found


def normalised(x: torch.Tensor) -> torch.Tensor:
    return (x * 255 - 127.5) / 127.5


class Residual(nn.Module):
    """Any `body`, plus its input where the stride is 1."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def add(self, x: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        return x + made if self.stride == 1 else made


class NamedBlock(nn.Module):
    """conv, bn, prelu (unless linear)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        if not linear:
            self.prelu = nn.PReLU(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        return self.prelu(x) if hasattr(self, "prelu") else x


class XiaoccerUnit(Residual):
    def __init__(self, inputs: int, inside: int, outputs: int, stride: int) -> None:
        super().__init__(stride)
        self.conv = nn.Sequential(
            *(nn.Conv2d(inputs, inside, 1, bias=False), nn.BatchNorm2d(inside), nn.PReLU(inside)),
            nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False),
            *(nn.BatchNorm2d(inside), nn.PReLU(inside)),
            *(nn.Conv2d(inside, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.add(x, self.conv(x))


class Xiaoccer(nn.Module):
    def __init__(
        self,
        divide: int = 1,
        embedding: int = 128,
        spatial: tuple[int, int] = (7, 6),
        counts: tuple[int, ...] = COUNTS,
    ) -> None:
        super().__init__()
        first, last = 64 // divide, 512 // divide
        self.conv1 = NamedBlock(3, first, 3, 2, 1)
        self.dw_conv1 = NamedBlock(first, first, 3, 1, 1, groups=first)
        self.blocks = nn.Sequential(*[XiaoccerUnit(*unit) for unit in units(divide, 1, counts)])
        self.conv2 = NamedBlock(128 // divide, last)
        self.linear7 = NamedBlock(last, last, spatial, groups=last, linear=True)
        self.linear1 = NamedBlock(last, embedding, linear=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.dw_conv1(self.conv1(normalised(x))))
        return self.linear1(self.linear7(self.conv2(x))).flatten(1)


class TrebienUnit(Residual):
    def __init__(self, inputs: int, inside: int, outputs: int, stride: int) -> None:
        super().__init__(stride)
        self.conv = NamedBlock(inputs, inside)
        self.conv_dw = NamedBlock(inside, inside, 3, stride, 1, groups=inside)
        self.project = NamedBlock(inside, outputs, linear=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.add(x, self.project(self.conv_dw(self.conv(x))))


class TrebienStage(nn.Module):
    def __init__(self, body: list[TrebienUnit]) -> None:
        super().__init__()
        self.model = nn.Sequential(*body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class TrebienHead(nn.Module):
    def __init__(self, channels: int, embedding: int, spatial: tuple[int, int]) -> None:
        super().__init__()
        self.conv_6_dw = NamedBlock(channels, channels, spatial, groups=channels, linear=True)
        self.linear = nn.Linear(channels, embedding, bias=False)
        self.bn = nn.BatchNorm1d(embedding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.linear(self.conv_6_dw(x).flatten(1)))


class Trebien(nn.Module):
    """With `below` the head's tensors have the prefix "output_layer."; the features before they are normalised."""

    def __init__(
        self, divide: int = 1, embedding: int = 512, spatial: tuple[int, int] = (7, 7), below: bool = False
    ) -> None:
        super().__init__()
        first, last = 64 // divide, 512 // divide
        self.conv1 = NamedBlock(3, first, 3, 2, 1)
        self.conv2_dw = NamedBlock(first, first, 3, 1, 1, groups=first)
        made = [TrebienUnit(*unit) for unit in units(divide, 1, COUNTS)]
        self.conv_23, self.conv_3 = made[0], TrebienStage(made[1:5])
        self.conv_34, self.conv_4 = made[5], TrebienStage(made[6:12])
        self.conv_45, self.conv_5 = made[12], TrebienStage(made[13:])
        self.conv_6_sep = NamedBlock(128 // divide, last)
        head = TrebienHead(last, embedding, spatial)
        self.below = below
        if below:
            self.output_layer = head
        else:
            self.conv_6_dw, self.linear, self.bn = head.conv_6_dw, head.linear, head.bn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2_dw(self.conv1(normalised(x)))
        for part in (self.conv_23, self.conv_3, self.conv_34, self.conv_4, self.conv_45, self.conv_5, self.conv_6_sep):
            x = part(x)
        return self.output_layer(x) if self.below else self.bn(self.linear(self.conv_6_dw(x).flatten(1)))


class Layered(nn.Module):
    """Any modules in a sequence called layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def layered(inputs: int, outputs: int, *sizes: int, groups: int = 1, linear: bool = False) -> Layered:
    kernel, stride, padding = sizes or (1, 1, 0)
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return Layered(convolution, nn.BatchNorm2d(outputs), *([] if linear else [nn.PReLU(outputs)]))


class InsightFaceUnit(Layered):
    def __init__(self, inputs: int, inside: int, outputs: int, stride: int) -> None:
        super().__init__(
            layered(inputs, inside),
            layered(inside, inside, 3, stride, 1, groups=inside),
            layered(inside, outputs, linear=True),
        )
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.stride == 1 else self.layers(x)


class InsightFace(nn.Module):
    """arcface_torch's; the depthwise layer of its stem has as many groups as at scale 1."""

    def __init__(
        self,
        divide: int = 1,
        embedding: int = 512,
        spatial: int = 7,
        counts: tuple[int, ...] = COUNTS,
        scale: int = 2,
    ) -> None:
        super().__init__()
        first, last = 64 * scale // divide, 512 // divide
        made = [InsightFaceUnit(*unit) for unit in units(divide, scale, counts)]
        layers = [layered(3, first, 3, 2, 1)]
        if counts[0] > 1:
            layers.append(Layered(*made[: counts[0]]))
            del made[: counts[0]]
        else:
            layers.append(layered(first, first, 3, 1, 1, groups=64 // divide))
        for count in counts[1:]:
            layers += [made[0], Layered(*made[1 : count + 1])]
            del made[: count + 1]
        self.layers = nn.ModuleList(layers)
        self.conv_sep = layered(128 * scale // divide, last)
        self.features = Layered(
            layered(last, last, spatial, 1, 0, groups=last, linear=True),
            nn.Flatten(),
            nn.Linear(last, embedding, bias=False),
            nn.BatchNorm1d(embedding),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = normalised(x)
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))


def rectified(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class FoamliuUnit(Residual):
    def __init__(self, inputs: int, inside: int, outputs: int, stride: int) -> None:
        super().__init__(stride)
        self.conv = nn.Sequential(
            rectified(inputs, inside),
            rectified(inside, inside, 3, stride, inside),
            nn.Conv2d(inside, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.add(x, self.conv(x))


class FoamliuStem(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn2(self.pointwise(torch.relu(self.bn1(self.depthwise(x))))))


class FoamliuGlobal(nn.Module):
    def __init__(self, channels: int, spatial: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, spatial, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.depthwise(x))


class Foamliu(nn.Module):
    def __init__(
        self, divide: int = 1, embedding: int = 128, spatial: int = 7, counts: tuple[int, ...] = COUNTS
    ) -> None:
        super().__init__()
        self.conv1 = rectified(3, 64 // divide, 3, 2)
        self.dw_conv = FoamliuStem(64 // divide)
        self.conv2 = rectified(128 // divide, 512 // divide)
        self.gdconv = FoamliuGlobal(512 // divide, spatial)
        self.conv3 = nn.Conv2d(512 // divide, embedding, 1)
        self.bn = nn.BatchNorm2d(embedding)
        self.features = nn.Sequential(*[FoamliuUnit(*unit) for unit in units(divide, 1, counts)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(self.dw_conv(self.conv1(normalised(x))))
        return self.bn(self.conv3(self.gdconv(self.conv2(x)))).flatten(1)
