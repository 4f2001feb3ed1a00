"""Metrics of a network on held-out examples. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from archsearch.evaluate.data.splits import Part
    from archsearch.evaluate.tasks import Task


def validate(
    model: nn.Module,
    task: Task,
    part: Part,
    device: str,
    autocast: Callable[[], AbstractContextManager[object]],
    *,
    limit: int | None = None,
) -> dict[str, float]:
    """The task's metrics of `part`, or of its first `limit` examples, in eval mode. `part` is on `device`."""
    if model.training:  # else its modules' own modes stay
        model.eval()
    count = len(part) if limit is None else min(limit, len(part))
    sums: dict[str, Tensor] = {}
    with torch.inference_mode():
        for chosen in torch.split(torch.arange(count), task.validation_batch):
            inputs, targets = part.batch(chosen, device)
            with autocast():
                output = model(task.prepare(inputs))
            for name, value in task.sums(output.float(), targets).items():
                sums[name] = sums[name] + value if name in sums else value
    return task.metrics({name: value.tolist() for name, value in sums.items()})
