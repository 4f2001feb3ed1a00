"""The space of TextNAS (Wang et al., "TextNAS: A Neural Architecture Search Space Tailored for Text Representation",
AAAI 2020, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn import InputChoice, LayerChoice
from archsearch.nn.sparing import candidates
from archsearch.zoo.arguments import probability, whole
from archsearch.zoo.attention import Attention

HEADS = 4
REACH = 5


class TextConv(nn.Module):
    """Convolution over the words, batch normalization, ReLU, dropout. (N, inputs, L) to (N, outputs, L)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        out: Tensor = self.body(x * there[:, None])
        return out


class TextPool(nn.Module):
    """Average or maximum of three neighbouring words."""

    def __init__(self, kind: type[nn.AvgPool1d] | type[nn.MaxPool1d]) -> None:
        super().__init__()
        self.pool = kind(3, stride=1, padding=1)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        out: Tensor = self.pool(x * there[:, None])
        return out


class TextGRU(nn.Module):
    """A bidirectional GRU, both directions summed."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        states = self.gru((x * there[:, None]).transpose(1, 2))[0]
        forwards, backwards = states.chunk(2, dim=-1)
        out: Tensor = self.dropout(forwards + backwards).transpose(1, 2)
        return out


class TextAttention(nn.Module):
    """Self-attention of four heads over the words."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, HEADS, width // HEADS, dropout)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        out: Tensor = self.attention(x.transpose(1, 2), there).transpose(1, 2)
        return out


class TextLayer(nn.Module):
    """An operation on one of the last five layers, plus any of these, normalized."""

    def __init__(self, number: int, width: int, dropout: float) -> None:
        super().__init__()
        self.reach = min(number, REACH)
        made: dict[str, Callable[[], nn.Module]] = {
            f"conv_{k}": partial(TextConv, width, width, k, dropout) for k in (1, 3, 5, 7)
        }
        made |= {"avg_pool": lambda: TextPool(nn.AvgPool1d), "max_pool": lambda: TextPool(nn.MaxPool1d)}
        made |= {"gru": lambda: TextGRU(width, dropout), "attention": lambda: TextAttention(width, dropout)}
        label = f"op_{number}"
        self.op = LayerChoice(candidates(label, made), label=label)
        self.source = InputChoice(self.reach, 1, label=f"input_{number}") if number else None
        self.skips = InputChoice(self.reach, None, label=f"skips_{number}") if number else None
        self.norm = nn.BatchNorm1d(width)

    def forward(self, earlier: list[Tensor], there: Tensor) -> Tensor:
        recent = earlier[-self.reach :]
        out = self.op(earlier[-1] if self.source is None else self.source(recent), there)
        if self.skips is not None:
            out = out + self.skips(recent)
        normalized: Tensor = self.norm(out)
        return normalized


class Weighted(nn.Module):
    """A weighted sum of all layers; the weights are learned and add up to 1."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(count))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Equal weights."""
        nn.init.zeros_(self.weights)

    def forward(self, layers: list[Tensor]) -> Tensor:
        return torch.einsum("i,i...->...", self.weights.softmax(0), torch.stack(layers))


class TextNAS(nn.Module):
    """Layers over the words of a sentence, each with an operation of eight, an input and a set of skip connections.

    Input (N, L) word numbers, of which 0 is padding, output (N, classes). Input i of a layer is the (i + 1)-th of the
    last five (or fewer) layers, oldest first. `embedding.weight` takes vectors learned elsewhere; without, they are
    learned.

    Args:
        vocabulary: how many word numbers there are, padding included.
        embedding_size: length of a word's vector.
        hidden: width of the layers, a multiple of 4; the paper has 256, 32 in search.
        layers: how many.
        classes: outputs.
        dropout: in the operations and of the word vectors.

    Raises:
        UserError: an argument out of its range.
    """

    name: ClassVar[str] = "textnas"
    small: ClassVar[Mapping[str, Any]] = {"hidden": 4, "embedding_size": 1, "vocabulary": 2}
    input_dtype = torch.int64

    def __init__(
        self,
        *,
        vocabulary: int = 20_000,
        embedding_size: int = 300,
        hidden: int = 256,
        layers: int = 24,
        classes: int = 5,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        whole(
            self.name,
            vocabulary=vocabulary,
            embedding_size=embedding_size,
            hidden=hidden,
            layers=layers,
            classes=classes,
        )
        probability(self.name, "dropout", dropout)
        if hidden % HEADS:
            raise UserError(
                f"{self.name}: hidden is a multiple of {HEADS}, the number of attention heads, not {hidden}"
            )
        self.embedding = nn.Embedding(vocabulary, embedding_size, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.first = TextConv(embedding_size, hidden, 1, dropout)
        self.layers = nn.ModuleList(TextLayer(i, hidden, dropout) for i in range(layers))
        self.combine = Weighted(layers + 1)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, words: Tensor) -> Tensor:
        there = words != 0
        there = there | ~there.any(dim=1, keepdim=True)  # an empty sentence attends to its padding, not to nothing
        states = [self.first(self.dropout(self.embedding(words)).transpose(1, 2), there)]
        for i, layer in enumerate(self.layers):
            states.append(layer(states[1:] if i else states, there))
        combined = self.combine(states) * there[:, None]
        logits: Tensor = self.classifier(combined.sum(dim=2) / there.sum(dim=1, keepdim=True))
        return logits
