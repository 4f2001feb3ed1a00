"""The trial of `trials.py`: 50 steps of a small multi-layer perceptron on random data."""

from __future__ import annotations

import torch
from torch import nn

from archsearch.nn import LayerChoice

STEPS, BATCH, FEATURES, CLASSES = 50, 32, 16, 4


class Net(nn.Module):
    """Eight layers that may be one of four activations each: 65,536 architectures, so that none comes twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 32)
        self.choices = nn.ModuleList(
            LayerChoice(
                {"relu": nn.ReLU(), "tanh": nn.Tanh(), "gelu": nn.GELU(), "none": nn.Identity()}, label=f"act{i}"
            )
            for i in range(8)
        )
        self.last = nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for choice in self.choices:
            x = choice(x)
        return self.last(x)


def fit(model: nn.Module, context: object) -> dict[str, float]:
    """Train on a fixed random task; the loss is the metric."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, FEATURES, generator=generator)
    y = torch.randint(CLASSES, (BATCH,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return {"loss": loss.item()}
