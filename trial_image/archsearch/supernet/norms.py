"""Batch normalization in supernets: its weights off, its statistics frozen or measured anew. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from archsearch.nn.cell import Cell
from archsearch.nn.mutables import LayerChoice
from archsearch.supernet.batchnorm import IDENTITY


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
                setattr(norm, IDENTITY, True)


def without_search_affine(model: nn.Module) -> None:
    """`without_affine` of all candidates, and of what prepares the inputs of a cell (as in Liu's search network)."""
    for module in model.modules():
        holds_cell = module is not model and any(isinstance(child, Cell) for child in module.children())
        if isinstance(module, LayerChoice) or holds_cell:
            without_affine([module])


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


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """In here a network is in eval mode, but normalizes by its batch's statistics, and leaves the running ones alone.

    That is how a path of a supernet is judged in passing: the running statistics are those of all paths.
    """
    training = model.training
    model.eval()
    norms = [norm for norm in normalizations(model) if norm.track_running_stats]
    for norm in norms:  # the buffers stay: of a norm with chosen arguments parts are cut out of them
        norm.track_running_stats, norm.training = False, True
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        model.train(training)


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
