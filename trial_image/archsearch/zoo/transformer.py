"""An elastic vision transformer, the space of AutoFormer (Chen et al., "AutoFormer: Searching Transformers for Visual
Recognition", ICCV 2021, table 1): width, depth, and in each block heads and width of the feed-forward layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from archsearch import nn as nas
from archsearch.errors import UserError
from archsearch.zoo.arguments import probability, whole
from archsearch.zoo.attention import Attention


class Positions(nn.Module):
    """Adds a class token in front and a learned vector to each position. (N, L, width) to (N, 1 + L, width)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal, deviation .02 (Dosovitskiy 2021)."""
        nn.init.normal_(self.token, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions


class Block(nn.Module):
    """Attention and a feed-forward layer, each on normalized input and with a residual.

    Args:
        number: of the block, for the labels of its choices.
        width: of a position, or a choice of it.
        heads, ratios: the candidates; a ratio is the feed-forward layer's width over a position's.
        head_width: of a head.
        dropout: after the feed-forward layer and of the attention's weights.
    """

    def __init__(
        self, number: int, width: Any, *, heads: Sequence[int], ratios: Sequence[float], head_width: int, dropout: float
    ) -> None:
        super().__init__()
        inner = (nas.ValueChoice(ratios, label=f"ratio_{number}") * width).map(int)
        self.norm_attention = nas.LayerNorm(width)
        chosen = nas.ValueChoice(heads, label=f"heads_{number}")
        self.attention = nas.wrap(Attention)(width, chosen, head_width, dropout)
        self.norm = nas.LayerNorm(width)
        self.wide = nas.Linear(width, inner)
        self.narrow = nas.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        out: Tensor = x + self.dropout(self.narrow(functional.gelu(self.wide(self.norm(x)))))
        return out


class ElasticTransformer(nn.Module):
    """A vision transformer (Dosovitskiy 2021) of chosen width, depth, heads and feed-forward ratios.

    Input (N, input_channels, input_size, input_size), output (N, classes). Choices: width, depth, heads_BLOCK and
    ratio_BLOCK; those of a block exist where the depth reaches it. The defaults are AutoFormer-T's, for small images.

    Args:
        input_size: height and width of the images.
        patch: side of a patch, which divides input_size.
        input_channels: of the images.
        classes: outputs.
        widths: candidates for the width of a position.
        depth: least and greatest number of blocks.
        heads: candidates for the number of heads.
        ratios: candidates for the feed-forward layer's width over a position's.
        head_width: of a head.
        dropout: in the blocks.

    Raises:
        UserError: an argument out of its range.
    """

    name: ClassVar[str] = "elastic-transformer"
    small: ClassVar[Mapping[str, Any]] = {"head_width": 1, "classes": 1}

    def __init__(
        self,
        *,
        input_size: int = 32,
        patch: int = 4,
        input_channels: int = 3,
        classes: int = 10,
        widths: Sequence[int] = (192, 216, 240),
        depth: Sequence[int] = (12, 14),
        heads: Sequence[int] = (3, 4),
        ratios: Sequence[float] = (3.5, 4.0),
        head_width: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        whole(self.name, input_size=input_size, patch=patch, input_channels=input_channels, classes=classes)
        whole(self.name, head_width=head_width, **{f"widths[{i}]": w for i, w in enumerate(widths)})
        whole(self.name, **{f"heads[{i}]": h for i, h in enumerate(heads)})
        probability(self.name, "dropout", dropout)
        if input_size % patch:
            raise UserError(f"{self.name}: patch divides input_size {input_size}, which {patch} does not")
        width = nas.ValueChoice(widths, label="width")
        low, high = depth
        self.patches = nas.Conv2d(input_channels, width, patch, patch)
        self.positions = nas.wrap(Positions)((input_size // patch) ** 2, width)
        self.blocks = nas.Repeat(
            lambda i: Block(i, width, heads=heads, ratios=ratios, head_width=head_width, dropout=dropout),
            (low, high),
            label="depth",
        )
        self.norm = nas.LayerNorm(width)
        self.classifier = nas.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.positions(self.patches(images).flatten(2).transpose(1, 2))
        logits: Tensor = self.classifier(self.norm(self.blocks(x))[:, 0])
        return logits
