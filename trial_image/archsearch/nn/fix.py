"""From a model and an architecture to the plain network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from archsearch.nn.describe import collect
from archsearch.nn.fixing import under
from archsearch.nn.mutables import warn_standalone


def fix(model: nn.Module, architecture: Mapping[str, Any] | None = None) -> nn.Module:
    """The plain network that an architecture chooses: a copy of the model without the candidates that were not chosen.

    A layer choice becomes its candidate (so that ``op.conv.weight`` is ``op.weight``), an input choice a module without
    parameters, a repeat an `nn.Sequential` and a module with chosen arguments the plain module. Weights are the
    model's, except in modules whose chosen arguments give other shapes: those are drawn anew. The model is not changed.

    Args:
        architecture: ``{choice: decision}``; None takes the first candidates, with a warning.

    Raises:
        ArchitectureError: an unknown choice, a choice without decision, an unknown candidate; the text names it and its
            place in the model.
        SpaceError: the model's choices contradict each other.
    """
    space, fixing = collect(model)
    if not space.choices and not architecture:
        return copy.deepcopy(model)
    if architecture is None:
        warn_standalone()
    chosen = space.default() if architecture is None else space.validate(architecture)
    with under(replace(fixing, decisions=chosen)):
        return copy.deepcopy(model)
