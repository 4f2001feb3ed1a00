"""Multi-head self-attention (Vaswani 2017), with modules whose weights torch can draw anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Self-attention of positions (N, L, width).

    Args:
        width: of a position, in and out.
        heads: how many.
        head_width: of a query, key and value in each head.
        dropout: of the attention's weights, in training.
    """

    # Three projections behind each other: fewer heads take some of each one's outputs (see archsearch.nn.sharing).
    packed: ClassVar[Mapping[str, int]] = {"queries_keys_values.weight": 3, "queries_keys_values.bias": 3}

    def __init__(self, width: int, heads: int, head_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.queries_keys_values = nn.Linear(width, 3 * heads * head_width)
        self.out = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor, there: Tensor | None = None) -> Tensor:
        """`there` (N, L) is true where there is something to attend to; default: everywhere."""
        parts = self.queries_keys_values(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = None if there is None else there[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], seen, dropout)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out
