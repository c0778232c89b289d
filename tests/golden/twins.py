"""The networks once more, in PyTorch, written from the published descriptions and not from the Flax code."""

import torch
from torch import nn


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = lambda: [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=False), nn.BatchNorm2d(channels)]  # noqa: E731
        self.body = nn.Sequential(*half(), nn.ReLU(), *half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Generator(nn.Module):
    def __init__(self, width: int, size: int, blocks: int = 3) -> None:
        super().__init__()
        a, b, c = width, 2 * width, 4 * width
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, a, 7, 1, 3), nn.InstanceNorm2d(a), nn.ReLU()),
            *(nn.Conv2d(a, b, 4, 2, 1), nn.InstanceNorm2d(b), nn.ReLU()),
            *(nn.Conv2d(b, c, 4, 2, 1), nn.InstanceNorm2d(c), nn.ReLU()),
        )
        self.blocks = nn.Sequential(*[ResidualBlock(c) for _ in range(blocks)])
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(c, b, 4, 2, 1, bias=False), nn.LayerNorm([b, size // 2, size // 2]), nn.ReLU()),
            *(nn.ConvTranspose2d(b, a, 4, 2, 1, bias=False), nn.LayerNorm([a, size, size]), nn.ReLU()),
            *(nn.ConvTranspose2d(a, 3, 7, 1, 3, bias=False), nn.Tanh()),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.blocks(self.encoder((x * 255 - 127.5) / 128)))


class Discriminator(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [3] + [width * 2**i for i in range(5)]
        kernels = [4, 4, 4, 4, 3]
        self.convs = nn.ModuleList([nn.Conv2d(channels[i], channels[i + 1], kernels[i], 2, 1) for i in range(5)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels[i + 1], eps=1e-3, momentum=0.995) for i in range(5)])
        self.output = nn.Conv2d(channels[5], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x * 255 - 127.5) / 128
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            x = nn.functional.leaky_relu(x, 0.2) if i >= 2 else x
        return self.output(x)


class SEModule(nn.Module):
    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(gate))))


class Bottleneck(nn.Module):
    """face.evoLVe's bottleneck_IR and bottleneck_IR_SE."""

    def __init__(self, inputs: int, channels: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        if inputs == channels:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, channels, 3, 1, 1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            *([SEModule(channels, 16)] if squeeze else []),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


def _stem(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.PReLU(channels))


def _head(channels: int, side: int, embedding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.Dropout(0.0),
        nn.Flatten(),
        nn.Linear(channels * side * side, embedding),
        nn.BatchNorm1d(embedding),
    )


class _Backbone(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output_layer(self.body(self.input_layer((x * 255 - 127.5) / 127.5)))


class IResNet(_Backbone):
    def __init__(
        self,
        size: int,
        units: tuple[int, ...] = (3, 4, 14, 3),
        channels: tuple[int, ...] = (64, 128, 256, 512),
        embedding: int = 512,
        squeeze: bool = False,
    ) -> None:
        super().__init__()
        self.input_layer = _stem(channels[0])
        body, inputs = [], channels[0]
        for outputs, count in zip(channels, units, strict=True):
            for unit in range(count):
                body.append(Bottleneck(inputs, outputs, 2 if unit == 0 else 1, squeeze))
                inputs = outputs
        self.body = nn.Sequential(*body)
        self.output_layer = _head(inputs, -(-size // 16), embedding)


class MobileNet(_Backbone):
    def __init__(self, size: int, divide: int = 1, embedding: int = 512) -> None:
        super().__init__()
        inputs = max(8, 32 // divide)
        self.input_layer = _stem(inputs)
        body = []
        plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
        for channels, stride in plan:
            outputs = max(8, channels // divide)
            body.append(
                nn.Sequential(
                    nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
                    nn.BatchNorm2d(inputs),
                    nn.PReLU(inputs),
                    nn.Conv2d(inputs, outputs, 1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.PReLU(outputs),
                )
            )
            inputs = outputs
        self.body = nn.Sequential(*body)
        self.output_layer = _head(inputs, -(-size // 16), embedding)
