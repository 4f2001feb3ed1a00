"""Operations of the cell spaces: NASNet (Zoph 2018), AmoebaNet (Real 2019), PNAS (Liu 2018), ENAS (Pham 2018), DARTS
(Liu 2019, whose evaluation code fixed what each of them is: ReLU, convolutions without bias, batch normalization)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Zero(nn.Module):
    """No connection: zeros, as small as the stride makes them."""

    gives_zeros = True

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Halving(nn.Module):
    """Height and width halved (rounded up) by two 1×1 convolutions, of which the second looks one pixel further.

    Args:
        first, second: convolutions of stride 2 whose outputs are concatenated.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        shifted = functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return torch.cat([self.first(x), self.second(shifted)], dim=1)


class DropPath(nn.Module):
    """In training each sample's path is dropped with a probability; the others are scaled up (Larsson 2017).

    Args:
        probability: of dropping; `set_drop_path` changes it during training.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        mask = torch.empty((x.shape[0], *(1,) * (x.dim() - 1)), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x / keep * mask

    def extra_repr(self) -> str:
        return f"{self.probability}"


def set_drop_path(network: nn.Module, probability: float) -> None:
    """Give every DropPath of a network this probability (DARTS raises it linearly over the epochs)."""
    for module in network.modules():
        if isinstance(module, DropPath):
            module.probability = probability


def conv(inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int | tuple[int, int] = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size but for its stride."""
    sides = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    return nn.Conv2d(inputs, outputs, kernel, stride, (sides[0] // 2, sides[1] // 2), bias=False)


def relu_conv_bn(channels: int, kernel: int, stride: int) -> nn.Sequential:
    """ReLU, convolution, batch normalization."""
    return nn.Sequential(nn.ReLU(), conv(channels, channels, kernel, stride), nn.BatchNorm2d(channels))


def _depthwise(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, dilation * (kernel // 2), dilation, groups=channels, bias=False),
        conv(channels, channels, 1),
        nn.BatchNorm2d(channels),
    ]


def separable(channels: int, kernel: int, stride: int) -> nn.Sequential:
    """A depthwise separable convolution, twice; the first one has the stride."""
    return nn.Sequential(*_depthwise(channels, kernel, stride), *_depthwise(channels, kernel, 1))


def dilated(channels: int, kernel: int, stride: int) -> nn.Sequential:
    """A depthwise separable convolution of dilation 2, once."""
    return nn.Sequential(*_depthwise(channels, kernel, stride, dilation=2))


def dilated_twice(channels: int, kernel: int, stride: int) -> nn.Sequential:
    """A depthwise separable convolution of dilation 2, twice; the first one has the stride."""
    return nn.Sequential(*_depthwise(channels, kernel, stride, 2), *_depthwise(channels, kernel, 1, 2))


def factorized(channels: int, side: int, stride: int) -> nn.Sequential:
    """A convolution of 1×side followed by one of side×1, one normalization."""
    return nn.Sequential(
        nn.ReLU(),
        conv(channels, channels, (1, side), (1, stride)),
        conv(channels, channels, (side, 1), (stride, 1)),
        nn.BatchNorm2d(channels),
    )


def skip(channels: int, stride: int) -> nn.Module:
    """The identity, or, with a stride, a factorized reduction."""
    if stride == 1:
        return nn.Identity()
    half = channels // 2
    halving = Halving(conv(channels, half, 1, 2), conv(channels, channels - half, 1, 2))
    return nn.Sequential(nn.ReLU(), halving, nn.BatchNorm2d(channels))


def _average(side: int, stride: int) -> nn.Module:
    return nn.AvgPool2d(side, stride, side // 2, count_include_pad=False)


OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda c, s: Zero(s),
    "skip_connect": skip,
    "avg_pool_3x3": lambda c, s: _average(3, s),
    "max_pool_3x3": lambda c, s: nn.MaxPool2d(3, s, 1),
    "max_pool_5x5": lambda c, s: nn.MaxPool2d(5, s, 2),
    "max_pool_7x7": lambda c, s: nn.MaxPool2d(7, s, 3),
    "conv_1x1": lambda c, s: relu_conv_bn(c, 1, s),
    "conv_3x3": lambda c, s: relu_conv_bn(c, 3, s),
    "sep_conv_3x3": lambda c, s: separable(c, 3, s),
    "sep_conv_5x5": lambda c, s: separable(c, 5, s),
    "sep_conv_7x7": lambda c, s: separable(c, 7, s),
    "dil_conv_3x3": lambda c, s: dilated(c, 3, s),
    "dil_conv_5x5": lambda c, s: dilated(c, 5, s),
    "dil_sep_conv_3x3": lambda c, s: dilated_twice(c, 3, s),
    "conv_3x1_1x3": lambda c, s: factorized(c, 3, s),
    "conv_7x1_1x7": lambda c, s: factorized(c, 7, s),
}
"""By name: functions of (channels, stride); inputs and outputs have the same number of channels."""


def operation(name: str, channels: int, stride: int, drop_path: float = 0.0) -> nn.Module:
    """The operation of a name, with a DropPath behind it unless it is the identity."""
    made = OPERATIONS[name](channels, stride)
    if drop_path == 0 or isinstance(made, nn.Identity):
        return made
    parts = made if isinstance(made, nn.Sequential) else [made]
    return nn.Sequential(*parts, DropPath(drop_path))
