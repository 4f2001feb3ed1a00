"""Two networks in plain torch.nn, written without a thought of architecture search. `mutate_*.yaml` search them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        return self.relu(out)


class ResNet(nn.Module):
    """ResNet-18 with the module names of torchvision's; narrow, with a stem for small images (N, channels, H, W)."""

    def __init__(
        self, classes: int = 10, input_channels: int = 1, width: int = 8, blocks: Sequence[int] = (2, 2, 2, 2)
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        inputs = width
        for number, count in enumerate(blocks, start=1):
            outputs, stride = width << (number - 1), 1 if number == 1 else 2
            layer = [BasicBlock(inputs, outputs, stride), *(BasicBlock(outputs, outputs, 1) for _ in range(count - 1))]
            self.add_module(f"layer{number}", nn.Sequential(*layer))
            inputs = outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Transformer(nn.Module):
    """An encoder over the rows of an image (N, 1, rows, columns)."""

    def __init__(self, classes: int = 10, rows: int = 8, columns: int = 8, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(columns, width)
        self.position = nn.Parameter(torch.randn(rows, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(images.squeeze(1)) + self.position).mean(1))
