"""NAS-Bench-201 (Dong and Yang, ICLR 2020): a cell of four nodes and six edges, each with one of five operations.

The architecture is ``{edge_SOURCE_TARGET: operation}``: one decision an edge, shared by all cells of the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn import LayerChoice
from archsearch.nn.sparing import candidates
from archsearch.zoo.arguments import whole
from archsearch.zoo.building import Published

NODES = 4
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


class Zero(nn.Module):
    """No connection: zeros of the input's shape."""

    gives_zeros = True

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class ConvBlock(nn.Sequential):
    """ReLU, convolution without bias, batch normalization."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
        )


def _operations(channels: int, label: str) -> dict[str, nn.Module]:
    makers: dict[str, Callable[[], nn.Module]] = {
        "none": Zero,
        "skip_connect": nn.Identity,
        "nor_conv_1x1": lambda: ConvBlock(channels, channels, 1),
        "nor_conv_3x3": lambda: ConvBlock(channels, channels, 3),
        "avg_pool_3x3": lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    }
    return candidates(label, makers)


class NASBench201Cell(nn.Module):
    """Node 0 is the input; each later node is the sum of its edges from all earlier ones; the last is the output.

    Args:
        channels: of input and output, both of shape (N, channels, H, W).
        prefix: of the choices' labels. Cells of one prefix share their decisions.
    """

    def __init__(self, channels: int, prefix: str = "") -> None:
        super().__init__()
        self.edges = nn.ModuleDict()
        for target in range(1, NODES):
            for source in range(target):
                edge = f"edge_{source}_{target}"
                self.edges[edge] = LayerChoice(_operations(channels, prefix + edge), label=prefix + edge)

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for target in range(1, NODES):
            total = self.edges[f"edge_0_{target}"](x)
            for source in range(1, target):
                total = total + self.edges[f"edge_{source}_{target}"](nodes[source])
            nodes.append(total)
        return nodes[-1]


class Reduction(nn.Module):
    """A residual block that halves height and width (rounded up) and changes the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvBlock(inputs, outputs, 3, stride=2), ConvBlock(outputs, outputs, 3))
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class NASBench201(nn.Module):
    """The benchmark's network: a stem, three stages of cells with two reductions between, pooling, a linear layer.

    Input (N, input_channels, H, W) with H and W >= 1, output (N, classes). With 16 channels, 5 cells and 3 input
    channels it has 72,656 + 65 · classes + 28,000 · (edges nor_conv_1x1) + 243,040 · (edges nor_conv_3x3) parameters.

    Args:
        channels: of the first stage; doubled at each reduction.
        cells: in each of the three stages.
        classes: outputs.
        input_channels: of the images.

    Raises:
        UserError: an argument that is no whole number from 1 on.
    """

    name: ClassVar[str] = "nasbench201"
    small: ClassVar[Mapping[str, Any]] = {"channels": 1, "cells": 1}
    space_canonicaliser = "nasbench201"
    published: ClassVar[Mapping[str, Published]] = {
        "ResNet": Published(
            "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|",
            "Dong and Yang 2020, the residual block of the benchmark's figures",
        )
    }

    def __init__(self, channels: int = 16, cells: int = 5, classes: int = 10, input_channels: int = 3) -> None:
        super().__init__()
        whole(self.name, channels=channels, cells=cells, classes=classes, input_channels=input_channels)
        self.stem = nn.Sequential(
            nn.Conv2d(input_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        stages: list[nn.Module] = []
        for stage in range(3):
            width = channels * 2**stage
            if stage:
                stages.append(Reduction(width // 2, width))
            stages.extend(NASBench201Cell(width) for _ in range(cells))
        self.body = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.head(self.body(self.stem(images))))
        return logits

    @classmethod
    def decisions(cls, notation: Any, args: Mapping[str, Any]) -> dict[str, Any]:
        """From ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`` to decisions.

        Raises:
            UserError: it is no such text.
        """
        nodes = notation.split("+") if isinstance(notation, str) else []
        found: dict[str, Any] = {}
        for target, node in enumerate(nodes, 1):
            for source, edge in enumerate(node.strip().strip("|").split("|")):
                match = re.fullmatch(r"(\w+)~(\d)", edge)
                if match is None or int(match[2]) != source or source >= target or match[1] not in OPERATIONS:
                    raise UserError(
                        f"{cls.name}: {edge!r} in {notation!r} is no edge OPERATION~{source} "
                        f"with one of {', '.join(OPERATIONS)}"
                    )
                found[f"edge_{source}_{target}"] = match[1]
        if len(nodes) != NODES - 1 or len(found) != NODES * (NODES - 1) // 2:
            raise UserError(f"{cls.name}: a notation is |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, not {notation!r}")
        return found
