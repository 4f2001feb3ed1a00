"""A small network of two kinds of cells whose edges carry their operations, as in DARTS, of cheap candidates."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from archsearch.nn import Cell
from archsearch.nn.cell import OpFactory
from archsearch.zoo.operations import Zero, relu_conv_bn

WIDTH = 4


def candidates(stride: int) -> Mapping[str, OpFactory]:
    """Operations of a cell, of which those on its inputs have the stride."""

    def steps(source: int) -> int:
        return stride if source < 2 else 1

    return {
        "skip_connect": lambda node, slot, source: (
            nn.Identity() if steps(source) == 1 else relu_conv_bn(WIDTH, 1, steps(source))
        ),
        "conv": lambda node, slot, source: relu_conv_bn(WIDTH, 3, steps(source)),
        "max_pool_3x3": lambda node, slot, source: nn.MaxPool2d(3, steps(source), 1),
        "none": lambda node, slot, source: Zero(steps(source)),
    }


class EdgeNet(nn.Module):
    """Input (N, 1, H, W), output (N, 10). The normal cell twice, the reduction cell once."""

    def __init__(self, nodes: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH))
        self.cells = nn.ModuleList(
            Cell(candidates(stride), nodes, 2, 2, wiring="edges", label=label)
            for label, stride in (("normal", 1), ("normal", 1), ("reduce", 2))
        )
        self.narrow = nn.ModuleList(nn.Conv2d(nodes * WIDTH, WIDTH, 1) for _ in self.cells)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for cell, narrow in zip(self.cells, self.narrow, strict=True):
            x = narrow(cell(x, x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
