"""Networks for texts as search spaces: a classifier, and a model of the next character.

Both take token numbers (N, length), of which 0 is padding. The evaluator fills in `vocabulary` and `classes`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from archsearch.nn import LayerChoice


class Convolution(nn.Module):
    """Looks at `kernel` neighbouring tokens. Causal: at a token and those before it. (N, L, width), both ways."""

    def __init__(self, width: int, kernel: int, causal: bool) -> None:
        super().__init__()
        self.left = kernel - 1 if causal else kernel // 2
        self.right = kernel - 1 - self.left
        self.convolution = nn.Conv1d(width, width, kernel)

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x.transpose(1, 2), (self.left, self.right))
        return x + functional.relu(self.convolution(padded)).transpose(1, 2)


class Recurrent(nn.Module):
    """A GRU. (N, L, width), both ways."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gru(x)[0]


def layer(width: int, causal: bool, label: str) -> LayerChoice:
    return LayerChoice(
        {
            "skip": nn.Identity(),
            "conv3": Convolution(width, 3, causal),
            "conv5": Convolution(width, 5, causal),
            "gru": Recurrent(width),
        },
        label=label,
    )


class Mean(nn.Module):
    """Over the tokens that are there. (N, L, width) to (N, width)."""

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        return (x * there).sum(1) / there.sum(1).clamp(min=1)


class Largest(nn.Module):
    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        return torch.where(there, x, -10.0).amax(1)


class Classifier(nn.Module):
    """Gives (N, classes)."""

    def __init__(self, vocabulary: int, classes: int, embedding_size: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding_size, padding_idx=0)
        self.dropout = LayerChoice({"some": nn.Dropout(0.2), "much": nn.Dropout(0.5)}, label="dropout")
        self.layer = layer(embedding_size, causal=False, label="layer")
        self.pool = LayerChoice({"mean": Mean(), "largest": Largest()}, label="pool")
        self.head = nn.Linear(embedding_size, classes)

    def forward(self, words: Tensor) -> Tensor:
        there = (words != 0).unsqueeze(2)
        return self.head(self.pool(self.layer(self.dropout(self.embedding(words))), there))


class LanguageModel(nn.Module):
    """Gives (N, length, vocabulary): what may come after each token."""

    def __init__(self, vocabulary: int, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.body = nn.Sequential(*(layer(width, causal=True, label=f"layer{index}") for index in range(3)))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(tokens)))
