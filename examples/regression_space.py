"""A network for the rows of a table, as a search space. `regression.yaml` searches it."""

from __future__ import annotations

from torch import Tensor, nn

from archsearch.nn import LayerChoice, Repeat


class Layer(nn.Sequential):
    """A hidden layer; in a Repeat each decides for itself."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Linear(width, width),
            LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh(), "silu": nn.SiLU()}),
            LayerChoice({"keep": nn.Identity(), "drop": nn.Dropout(0.2)}),
        )


class Net(nn.Module):
    """Takes rows (N, features), gives (N, outputs); the evaluator fills in both numbers."""

    def __init__(self, input_size: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Linear(input_size, width)
        self.body = Repeat(lambda _: Layer(width), (1, 4), label="depth")
        self.head = nn.Linear(width, classes)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.body(self.stem(rows)))
