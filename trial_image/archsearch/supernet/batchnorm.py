"""A batch normalization's call: times a weight, on a part of its channels, in a layout that is fast. Imports torch.

PyTorch's kernels for channels-last images on a CPU take many channels at a time. Where a tensor has few, or a number
that leaves some over, they fall back to one at a time: 16 x 4 x 32 x 32 numbers take 1.1 ms forward and backward, and
0.1 ms laid out plainly. Convolutions and pools are faster channels-last all the same, so that the tensor is laid out
anew for its normalization, and back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

IDENTITY = "identity_affine"
"""Attribute of normalizations whose weights are fixed at 1 and 0; see `norms.without_affine`."""
LANES = 16
WIDE = 64
SMALL = 4096
"""Sizes between which laying out anew pays, measured: channels from WIDE on, and fewer numbers, do not."""


class LaidOutBatchNorm2d(nn.BatchNorm2d):
    """A batch normalization of images that takes the layout which is fast."""

    parts = False
    """Whether it may be given its first channels alone; it then moves their statistics only."""

    def forward(self, x: Tensor) -> Tensor:
        fits = x.shape[1] <= self.num_features if self.parts else x.shape[1] == self.num_features
        return normalised(x, self) if fits and x.dim() == 4 else super().forward(x)  # which says what is wrong


class PartBatchNorm2d(LaidOutBatchNorm2d):
    """A batch normalization of as many of its first channels as it is given."""

    parts = True


NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, LaidOutBatchNorm2d, PartBatchNorm2d)
"""Classes that `normalised` takes; a subclass of one's own may do anything."""
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def lay_out(model: nn.Module) -> None:
    """Have all batch normalizations of images of a channels-last model on a CPU take the layout that is fast."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = LaidOutBatchNorm2d


def normalised(x: Tensor, norm: Norm | None, weight: Tensor | None = None) -> Tensor:
    """``weight * norm(x)``.

    Args:
        x: (N, C, …), with the first C channels of the norm's.
        norm: of a class in `NORMS`; None: by the batch's statistics alone.
        weight: a number, or None for 1. It is the kernel's own scale, and so costs no pass over the tensor.
    """
    channels = x.shape[1]
    if norm is None:
        return batch_norm(x, None, None, _spread(weight, channels), None, True, 0.0, 1e-5)
    scale, bias = _first(norm.weight, channels), _first(norm.bias, channels)
    if weight is not None:
        if scale is None or bias is None or getattr(norm, IDENTITY, False):
            scale, bias = _spread(weight, channels), None
        else:
            scale, bias = weight * scale, weight * bias
    mean, variance, momentum = _statistics(norm)
    by_batch = norm.training or norm.running_mean is None
    return batch_norm(x, _first(mean, channels), _first(variance, channels), scale, bias, by_batch, momentum, norm.eps)


def batch_norm(
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    by_batch: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """`torch.nn.functional.batch_norm` in the layout that is fast; the result lies as `x` does."""
    if not _is_slow(x):
        return functional.batch_norm(x, mean, variance, scale, bias, by_batch, momentum, eps)
    out = functional.batch_norm(x.contiguous(), mean, variance, scale, bias, by_batch, momentum, eps)
    laid: Tensor = _ChannelsLast.apply(out)  # type: ignore[no-untyped-call]
    return laid


class _ChannelsLast(torch.autograd.Function):
    """A plain tensor laid out channels-last; its gradient laid out plainly, which the kernel's other half needs too."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


def _is_slow(x: Tensor) -> bool:
    if x.dim() != 4 or x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return False
    channels = x.shape[1]
    narrow = channels % LANES > 0 and channels < WIDE and x.numel() >= SMALL
    return narrow and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _spread(weight: Tensor | None, channels: int) -> Tensor | None:
    return None if weight is None else weight.expand(channels).contiguous()


def _first(tensor: Tensor | None, channels: int) -> Tensor | None:
    return tensor if tensor is None or tensor.shape[0] == channels else tensor[:channels]


def _statistics(norm: Norm) -> tuple[Tensor | None, Tensor | None, float]:
    """What the kernel is to read and move, and how fast: as the module itself would say."""
    factor = 0.0 if norm.momentum is None else norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            factor = 1.0 / float(norm.num_batches_tracked)
    if norm.training and not norm.track_running_stats:
        return None, None, factor
    return norm.running_mean, norm.running_var, factor
