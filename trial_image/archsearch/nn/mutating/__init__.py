"""A search space over a network that was never written for one: modules and calls replaced, inserted, removed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from archsearch.nn.mutating.candidates import MutationError
from archsearch.nn.mutating.operations import Insert, Operation, Remove, Repeated, Replace, from_manifest
from archsearch.nn.mutating.plain import call_children
from archsearch.nn.mutating.tree import Tree

__all__ = ["Insert", "MutationError", "Operation", "Remove", "Repeated", "Replace", "from_manifest", "mutate"]


def mutate(model: nn.Module, operations: Sequence[Operation]) -> nn.Module:
    """A copy of a network with choices in it, for `describe` and `fix`; the network itself is not changed.

    Modules are exchanged in the tree of modules, without tracing. Operations on calls (``call=``) come first:
    `torch.fx` traces the forward of each module that they match, its children untouched; only those must be traceable.
    Paths are the network's own all along, also below a module that an earlier operation has replaced and kept as a
    candidate.

    Raises:
        MutationError: nothing matches, a place is replaced twice, a forward cannot be traced, or a candidate cannot be
            made; the text names the operation, the path in the network and the remedy.
    """
    tree = Tree(copy.deepcopy(model))
    numbered = list(enumerate(operations))
    for index, operation in sorted(numbered, key=lambda each: each[1].call is None):
        with operation.named(index):
            operation.apply(tree)
    result = tree.model
    call_children(result, tree.added)
    _place(result, model)
    return result


def _place(result: nn.Module, model: nn.Module) -> None:
    """What was added goes where the network is, and has its type of numbers."""
    kinds = {(parameter.device, parameter.dtype) for parameter in model.parameters()}
    if len(kinds) == 1 and kinds != {(torch.empty(0).device, torch.get_default_dtype())}:
        result.to(*kinds.pop())
