"""The space of Single Path One-Shot (Guo 2020, "Single Path One-Shot Neural Architecture Search with Uniform Sampling",
ECCV, section 3.4): twenty ShuffleNetV2-like blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from archsearch import nn as nas
from archsearch.errors import UserError
from archsearch.nn.sparing import candidates
from archsearch.zoo.arguments import one_of, probability, whole
from archsearch.zoo.building import Published
from archsearch.zoo.chain import block_decisions

STAGES = (4, 4, 8, 4)
WIDTHS = (16, 64, 160, 320, 640, 1024)
SCALES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
KERNELS = {"k3": 3, "k5": 5, "k7": 7}
XCEPTION = "xcep"
_SPOS = "k7 k5 k3 k5 k7 k3 k7 k3 k7 k3 k7 xcep k3 k3 k3 k3 xcep k7 xcep xcep"


def _point(inputs: Any, outputs: Any) -> list[nn.Module]:
    return [nas.Conv2d(inputs, outputs, 1, bias=False), nas.BatchNorm2d(outputs), nn.ReLU()]


def _depth(channels: Any, kernel: int, stride: int) -> list[nn.Module]:
    depthwise = nas.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
    return [depthwise, nas.BatchNorm2d(channels)]


class ShuffleBlock(nn.Module):
    """A block of ShuffleNetV2 (Ma 2018): half of the channels pass by, the other half are worked on.

    In the first block of a stage both branches see all channels. The Xception block has three depthwise convolutions
    instead of one.

    Args:
        inputs, outputs: channels.
        middle: channels within the block, or a choice of them.
        kernel: of the depthwise convolutions; None: the Xception block.
        stride: of the first depthwise convolution; 0 for a block that is not the first of its stage.
    """

    def __init__(self, inputs: int, outputs: int, middle: Any, kernel: int | None, stride: int) -> None:
        super().__init__()
        self.first = stride > 0
        own, stride = (inputs, stride) if self.first else (inputs // 2, 1)
        rest = outputs - own
        if kernel is None:
            parts = [
                *_depth(own, 3, stride), *_point(own, middle),
                *_depth(middle, 3, 1), *_point(middle, middle),
                *_depth(middle, 3, 1), *_point(middle, rest),
            ]  # fmt: skip
        else:
            parts = [*_point(own, middle), *_depth(middle, kernel, stride), *_point(middle, rest)]
        self.main = nn.Sequential(*parts)
        side = [*_depth(own, kernel or 3, stride), *_point(own, own)] if self.first else []
        self.side = nn.Sequential(*side)

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            return torch.cat([self.side(x), self.main(x)], dim=1)
        return torch.cat([x[:, ::2], self.main(x[:, 1::2])], dim=1)  # the shuffle: every other channel passes by


class ShuffleNetSPOS(nn.Module):
    """Twenty blocks in four stages, each a shuffle block of kernel size 3, 5 or 7, or an Xception block.

    Input (N, input_channels, H, W), output (N, classes). The published network has 3,558,464 parameters and 322.9
    million multiply-adds at 224 pixels. Notation: a list of 20 block names or indices (0 … 3), or {blocks, channels}
    with indices of the 20 channel scales where these are chosen too.

    Args:
        width: factor of all widths, which stay multiples of 4.
        classes: outputs.
        input_channels: of the images.
        input_size: height and width of the images; nothing depends on it.
        stem: "imagenet", or "cifar", without the first two of the five halvings.
        channel_search: make the width within each block a choice of 0.2 … 1.6 times the usual one.
        dropout: before the linear layer.

    Raises:
        UserError: an argument out of its range.
    """

    name: ClassVar[str] = "shufflenet-spos"
    small: ClassVar[Mapping[str, Any]] = {"classes": 1}
    published: ClassVar[Mapping[str, Published]] = {
        "SPOS": Published(_SPOS.split(), "Guo 2020, block search"),
    }

    def __init__(
        self,
        *,
        width: float = 1.0,
        classes: int = 1000,
        input_channels: int = 3,
        input_size: int = 224,
        stem: str = "imagenet",
        channel_search: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        whole(self.name, classes=classes, input_channels=input_channels, input_size=input_size)
        one_of(self.name, "stem", stem, ("cifar", "imagenet"))
        one_of(self.name, "channel_search", channel_search, (True, False))
        probability(self.name, "dropout", dropout)
        if isinstance(width, bool) or not isinstance(width, int | float) or not width > 0:
            raise UserError(f"{self.name}: width is a number above 0, not {width!r}")
        widths = [max(4, round(w * width / 4) * 4) for w in WIDTHS]
        small = stem == "cifar"
        first = nn.Conv2d(input_channels, widths[0], 3, 1 if small else 2, 1, bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(widths[0]), nn.ReLU())
        blocks: list[nn.Module] = []
        for stage, count in enumerate(STAGES):
            for i in range(count):
                stride = 0 if i else 1 if small and stage == 0 else 2
                shape = (widths[stage + 1] if i else widths[stage], widths[stage + 1], stride)
                blocks.append(self._choice(len(blocks), shape, channel_search))
        self.blocks = nn.Sequential(*blocks)
        last = nn.Conv2d(widths[-2], widths[-1], 1, bias=False)
        self.head = nn.Sequential(
            last, nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)
        )
        self.classifier = nn.Linear(widths[-1], classes, bias=False)

    def _choice(self, number: int, shape: tuple[int, int, int], search: bool) -> nn.Module:
        inputs, outputs, stride = shape
        usual = outputs // 2
        widths = tuple(dict.fromkeys(max(1, int(usual * scale)) for scale in SCALES))
        middle = nas.ValueChoice(widths, label=f"channels_{number}") if search else usual
        made: dict[str, Callable[[], nn.Module]] = {
            name: partial(ShuffleBlock, inputs, outputs, middle, kernel, stride)
            for name, kernel in {**KERNELS, XCEPTION: None}.items()
        }
        label = f"block_{number}"
        return nas.LayerChoice(candidates(label, made), label=label)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.head(self.blocks(self.stem(images))))
        return logits

    @classmethod
    def decisions(cls, notation: Any, args: Mapping[str, Any]) -> dict[str, Any]:
        """From a list of block names or indices (or {blocks, channels}) to decisions.

        Raises:
            UserError: it is none.
        """
        fields = notation if isinstance(notation, Mapping) else {"blocks": notation}
        names = [[*KERNELS, XCEPTION]] * sum(STAGES)
        found = block_decisions(
            cls.name, fields["blocks"], names, {"xception": XCEPTION, "x": XCEPTION, "kx": XCEPTION}
        )
        scales = fields.get("channels")
        if scales is None:
            return found
        if not isinstance(scales, list | tuple) or len(scales) != sum(STAGES):
            raise UserError(f"{cls.name}: channels are {sum(STAGES)} indices of scales, not {scales!r}")
        usual = [WIDTHS[stage + 1] // 2 for stage, count in enumerate(STAGES) for _ in range(count)]
        for i, (scale, width) in enumerate(zip(scales, usual, strict=True)):
            one_of(cls.name, f"channels[{i}]", scale, range(len(SCALES)))
            found[f"channels_{i}"] = int(width * SCALES[scale])
        return found

    @classmethod
    def implied(cls, decisions: Mapping[str, Any]) -> dict[str, Any]:
        """Whether channels are chosen too."""
        return {"channel_search": True} if any(key.startswith("channels_") for key in decisions) else {}
