"""Random changes of training images, drawn on the CPU so that every device sees the same. Imports torch."""

from __future__ import annotations

import torch
from torch import Tensor


def random_crop(images: Tensor, padding: int, generator: torch.Generator, fill: Tensor) -> Tensor:
    """Pad by `padding` on all sides, and cut each image (N, C, H, W) out at a place of its own.

    Args:
        fill: The padding's value by channel (C,), for scaled images that of a black pixel.
    """
    count, _, height, width = images.shape
    padded = fill.view(1, -1, 1, 1).repeat(count, 1, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    places = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).to(images.device)
    rows = places[0] + torch.arange(height, device=images.device)
    columns = places[1] + torch.arange(width, device=images.device)
    each = torch.arange(count, device=images.device)
    # Indices around a slice put the channels last.
    return padded[each[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every second image (N, C, H, W), by chance, left to right."""
    chosen = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


def cutout(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Set a square of `size` pixels a side to 0, its centre anywhere in the image (DeVries & Taylor 2017)."""
    count, _, height, width = images.shape
    rows = _covered(torch.randint(0, height, (count, 1), generator=generator), height, size)
    columns = _covered(torch.randint(0, width, (count, 1), generator=generator), width, size)
    hole = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)
    return images.masked_fill(hole, 0.0)


def _covered(centres: Tensor, length: int, size: int) -> Tensor:
    """(N, length), true from ``centre - size // 2`` on for `size` places, cut at the borders."""
    first = centres - size // 2
    places = torch.arange(length)
    return (places >= first) & (places < first + size)
