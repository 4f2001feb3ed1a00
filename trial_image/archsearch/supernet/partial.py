"""Partial channels: a mixture on a part of the channels, the rest passed by (Xu et al. 2020, "PC-DARTS").
Imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from archsearch.errors import UserError
from archsearch.supernet.batchnorm import LaidOutBatchNorm2d, PartBatchNorm2d
from archsearch.supernet.mixing import Activations, mix

if TYPE_CHECKING:
    from archsearch.supernet.network import Mixture


class PartConv2d(nn.Conv2d):
    """A convolution that takes fewer channels than it was made for, with the first part of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        given = x.shape[1]
        if given == self.in_channels:
            return super().forward(x)
        outputs, groups = self.out_channels * given, self.groups * given if self.groups > 1 else self.in_channels
        if outputs % self.in_channels or groups % self.in_channels:
            raise UserError(
                f"{nn.Conv2d.__name__}({self.in_channels}, {self.out_channels}, groups={self.groups}) cannot work on "
                f"{given} of its channels: use a width that partialChannels divides"
            )
        outputs, groups = outputs // self.in_channels, groups // self.in_channels
        weight = self.weight[:outputs, : given // groups]
        return self._conv_forward_part(x, weight, None if self.bias is None else self.bias[:outputs], groups)

    def _conv_forward_part(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        if self.padding_mode != "zeros":
            x = functional.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return functional.conv2d(x, weight, bias, self.stride, 0, self.dilation, groups)
        return functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)


_PART: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: PartConv2d,
    nn.BatchNorm2d: PartBatchNorm2d,
    LaidOutBatchNorm2d: PartBatchNorm2d,
}


def take_parts(modules: Iterable[nn.Module]) -> None:
    """Have all layers below take as many channels as they are given; names and shapes of parameters stay.

    Raises:
        UserError: a layer with parameters that is neither a Conv2d nor a BatchNorm2d.
    """
    for module in modules:
        for name, layer in module.named_modules():
            if type(layer) in _PART:
                layer.__class__ = _PART[type(layer)]
            elif not isinstance(layer, PartConv2d | PartBatchNorm2d) and any(True for _ in layer.parameters(False)):
                raise UserError(
                    f"{type(layer).__name__} ({name or 'a candidate'}) cannot work on a part of its channels: pc-darts "
                    "takes candidates of Conv2d, BatchNorm2d and layers without parameters; take darts or gdas"
                )


class PartialChannels:
    """Mixes 1/K of the channels, passes the others by, and shuffles, so that the next mixture sees others (equation 1).

    The first channels are those that are mixed. Where the candidates halve height and width, the others are
    max-pooled.

    Args:
        parts: K.
        activations: where mixtures that read one tensor share what they take of it.
    """

    def __init__(self, parts: int, activations: Activations | None = None) -> None:
        self.parts, self.activations = parts, activations

    def __call__(
        self, modules: Sequence[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any], mixture: Mixture
    ) -> Tensor:
        x, *others = args
        width = x.shape[1]
        if width % self.parts:
            raise UserError(
                f"a choice works on {width} channels, which partialChannels {self.parts} does not divide: use another "
                "width, or partialChannels"
            )
        shared = self.activations or Activations(2)
        own, rest = shared.of(x, (PartialChannels, self.parts), self._split)
        mixed: Tensor = mix(modules, (own, *others), kwargs, mixture.weights, shared)
        if mixed.shape[2:] != rest.shape[2:]:
            rest = shared.of(rest, PartialChannels, _halved)
        if mixed.shape != (*own.shape[:2], *rest.shape[2:]):
            raise UserError(
                f"a candidate turns {tuple(own.shape[1:])} into {tuple(mixed.shape[1:])}: partial channels need "
                "candidates that keep the channels, and the size or its half"
            )
        last = _layout(x) == torch.channels_last and mixed.dtype == rest.dtype
        if last and x.device.type == "cpu" and not torch.compiler.is_compiling():
            joined: Tensor = _Joined.apply(mixed, rest, self.parts)  # type: ignore[no-untyped-call]
            return joined
        return shuffled(torch.cat([mixed, rest], dim=1), self.parts)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The channels that are mixed, in one piece, and the others."""
        own, rest = x.tensor_split([x.shape[1] // self.parts], dim=1)
        return own.contiguous(memory_format=_layout(x)), rest


def _halved(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 2, 2, ceil_mode=True)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channels (g, c) of (batch, g * c, height, width) in the order (c, g) (Zhang et al. 2018, "ShuffleNet")."""
    batch, channels, *size = x.shape
    return x.view(batch, groups, channels // groups, *size).transpose(1, 2).reshape(batch, channels, *size)


class _Joined(torch.autograd.Function):
    """``shuffled(torch.cat([mixed, rest], dim=1), parts)`` of channels-last tensors on a CPU, channels-last too.

    Group by group these are strided copies, which are fast there; and the gradients come out in one piece each, as the
    normalizations before want them.
    """

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, rest: Tensor, parts: int) -> Tensor:
        ctx.parts = parts
        batch, width, *size = mixed.shape
        out = mixed.new_empty(batch, *size, width, parts)
        out[..., 0] = mixed.movedim(1, 3)
        for i, group in enumerate(rest.movedim(1, 3).tensor_split(parts - 1, 3), 1):
            out[..., i] = group
        return out.view(batch, *size, width * parts).movedim(3, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        batch, channels, *size = gradient.shape
        first, *others = gradient.movedim(1, 3).reshape(batch, *size, channels // ctx.parts, ctx.parts).unbind(4)
        return first.contiguous().movedim(3, 1), torch.cat(others, dim=3).movedim(3, 1), None


def _layout(x: Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.stride(1) == 1 and x.shape[1] > 1
    return torch.channels_last if last else torch.contiguous_format
