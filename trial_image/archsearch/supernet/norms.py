"""Batch normalization in supernets: its weights off, its statistics frozen or measured anew. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def normalizations(model: nn.Module) -> list[_BatchNorm]:
    """All batch normalizations of a model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def without_affine(modules: Iterable[nn.Module]) -> None:
    """Fix weight 1 and bias 0 in all batch normalizations below (Liu 2019, A.1): they would rescale the candidates."""
    for module in modules:
        for norm in normalizations(module):
            if norm.affine:
                nn.init.ones_(norm.weight)
                nn.init.zeros_(norm.bias)
                norm.weight.requires_grad_(False)
                norm.bias.requires_grad_(False)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Forward passes in here use their batch's statistics and leave the running ones alone."""
    norms = [norm for norm in normalizations(model) if norm.track_running_stats and norm.training]
    for norm in norms:
        norm.track_running_stats = False  # the training mode then neither reads nor moves them
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def recalibrate(model: nn.Module, forward: Callable[[Tensor], object], batches: Iterable[Tensor]) -> int:
    """Measure the running statistics of a network's batch normalizations anew, as the mean over batches.

    A path of a supernet has statistics of its own, which training under all paths does not give (Guo 2020, section
    3.3). Dropout and the like stay off.

    Args:
        forward: computes the network's output of one batch.
        batches: prepared inputs.

    Returns:
        How many batches there were.
    """
    norms = [norm for norm in normalizations(model) if norm.track_running_stats]
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    count = 0
    try:
        with torch.no_grad():
            for batch in batches:
                forward(batch)
                count += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
    return count
