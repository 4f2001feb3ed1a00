"""Weighted sums of candidates' outputs. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def is_zero(module: nn.Module) -> bool:
    """Whether a candidate gives zeros for every input: such classes say so by an attribute `gives_zeros`."""
    return bool(getattr(module, "gives_zeros", False))


def mix(modules: Sequence[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any], weights: Tensor | None) -> Any:
    """The sum of the modules' outputs, each times its weight; candidates that give zeros are not computed.

    Args:
        weights: (len(modules),), or None for a plain sum.
    """
    total: Any = None
    for i, module in enumerate(modules):
        if is_zero(module) and (total is not None or i < len(modules) - 1):
            continue
        output = module(*args, **kwargs)
        part = output if weights is None else weights[i] * output
        total = part if total is None else total + part
    return total


def logits_of(output: Any) -> tuple[Tensor, Tensor]:
    """A network's own output, and its mean with the auxiliary output where there is one (else the same)."""
    if not isinstance(output, (tuple, list)):
        return output, output
    main, auxiliary = output
    return main, main if auxiliary is None else (main + auxiliary) / 2
