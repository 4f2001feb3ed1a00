"""Choices that stand in an ordinary `torch.nn.Module`, and the way from such a model to its space and to a plain one.

Every module class of `torch.nn` stands here too (`archsearch.nn.Conv2d`, …): it takes a `ValueChoice`, or arithmetic on
some, wherever torch's takes a number, and makes torch's own module where there is none. `wrap` does so for any class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from archsearch.nn.cell import AfterCell, Cell, ChosenCell
from archsearch.nn.checking import CandidateError, check
from archsearch.nn.describe import describe
from archsearch.nn.fix import fix
from archsearch.nn.mutables import ChosenInputs, InputChoice, LayerChoice, Mutable, Repeat, StandaloneWarning
from archsearch.nn.mutating import Insert, MutationError, Remove, Repeated, Replace, mutate
from archsearch.nn.values import ChosenValue, Expression, ValueChoice, ValueModule, maximum, minimum, wrap

__all__ = [
    "AfterCell",
    "CandidateError",
    "Cell",
    "ChosenCell",
    "ChosenInputs",
    "ChosenValue",
    "Expression",
    "InputChoice",
    "Insert",
    "LayerChoice",
    "Mutable",
    "MutationError",
    "Remove",
    "Repeat",
    "Repeated",
    "Replace",
    "StandaloneWarning",
    "ValueChoice",
    "ValueModule",
    "check",
    "describe",
    "fix",
    "maximum",
    "minimum",
    "mutate",
    "wrap",
]


def __getattr__(name: str) -> Any:
    found = getattr(torch.nn, name, None)
    if isinstance(found, type) and issubclass(found, torch.nn.Module):
        return wrap(cast(Callable[..., torch.nn.Module], found))
    raise AttributeError(f"module 'archsearch.nn' has no attribute {name!r}")
