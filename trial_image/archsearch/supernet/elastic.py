"""Modules whose arguments are chosen, on shared weights: each takes its part of the largest one's. Imports torch.

How channels, kernels, heads and the like are cut out is said in `archsearch.nn.sharing`. Of such a module all choices
are one parameter to the optimizer: what a path does not take of it has a gradient of zero, so that momentum and weight
decay act on it all the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn.mutables import Mutable
from archsearch.nn.sharing import Variant, bare, cuts
from archsearch.nn.values import MAX_OUTCOMES, Value, ValueChoice, ValueModule
from archsearch.space import Scalar

_ADVICE = (
    "make it a layer choice, or use a strategy that trains each architecture (regularized-evolution, predictor, …)"
)
Assignment = Mapping[ValueChoice, Scalar]


def widen(model: nn.Module) -> None:
    """Give every module with chosen arguments the largest parameters that any choice needs, in place.

    They are drawn anew where they are larger than before. A model without such modules is left as it is; a second call
    changes nothing.

    Raises:
        UserError: a module's choices have no parameters to share: none of them contains those of the others, or it
            holds tensors that are neither parameters nor buffers, or choices of its own.
    """
    known: dict[Any, nn.Module] = {}
    for path, module in list(model.named_modules()):
        if isinstance(module, ValueModule) and module.widest is None:
            _widen(module, path, known)


class Elastic:
    """Calls modules with chosen arguments; what it needs for a combination of them it makes once."""

    def __init__(self) -> None:
        self._variants: dict[tuple[ValueModule, tuple[Scalar, ...]], Variant] = {}

    def call(
        self, module: ValueModule, value: Callable[[Any], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The output of a widened `module` with the arguments that `value` gives."""
        values = tuple(value(leaf) for leaf in module.leaves)
        if values == module.widest:
            return module.inner(*args, **kwargs)
        variant = self._variants.get((module, values))
        if variant is None:
            variant = self._variants[module, values] = Variant(module, value)
        return variant(args, kwargs)


def _widen(module: ValueModule, path: str, known: dict[Any, nn.Module]) -> None:
    what = f"{path or 'the model'} ({type(module.inner).__name__} with chosen arguments) cannot be part of a supernet"
    for below, inner in module.inner.named_modules():
        if isinstance(inner, Mutable) or any(isinstance(value, Value) for value in vars(inner).values()):
            raise UserError(f"{what}: {below or 'it'} is a choice within it; take the choice out of it, or {_ADVICE}")
        for name, value in vars(inner).items():
            if isinstance(value, Tensor):
                raise UserError(f"{what}: {name} is a tensor, but no parameter or buffer; call register_buffer")
    combinations = _combinations(module, what)
    plains = [_bare(module, each, known) for each in combinations]
    sizes = [sum(parameter.numel() for parameter in plain.parameters()) for plain in plains]
    largest = sizes.index(max(sizes))
    for assignment, plain in zip(combinations, plains, strict=True):
        try:
            for _ in cuts(plain, plains[largest]):
                pass
        except UserError as error:
            told = f"{_told(assignment)}, {_told(combinations[largest])}"
            raise UserError(f"{what}: {error} ({told}); {_ADVICE}") from None
    module.widen(tuple(combinations[largest][leaf] for leaf in module.leaves))


def _combinations(module: ValueModule, what: str) -> list[Assignment]:
    """Every combination of what the module's choices offer; those with one label are one choice."""
    groups: dict[Any, list[ValueChoice]] = {}
    for leaf in module.leaves:
        groups.setdefault(leaf.label or id(leaf), []).append(leaf)
    options = [leaves[0].options for leaves in groups.values()]
    total = 1
    for each in options:
        total *= len(each)
    if total > MAX_OUTCOMES:
        raise UserError(f"{what}: its arguments have {total} combinations, more than {MAX_OUTCOMES}; {_ADVICE}")
    return [
        {leaf: value for leaves, value in zip(groups.values(), values, strict=True) for leaf in leaves}
        for values in itertools.product(*options)
    ]


def _bare(module: ValueModule, assignment: Assignment, known: dict[Any, nn.Module]) -> nn.Module:
    def value(given: Any) -> Any:
        return given.evaluate(assignment.__getitem__) if isinstance(given, Value) else given

    key = module.signature(value)
    try:
        found = known.get(key)
    except TypeError:  # arguments that are not hashable
        return bare(module, value)
    if found is None:
        found = known[key] = bare(module, value)
    return found


def _told(assignment: Assignment) -> str:
    return " and ".join(f"{leaf.label or 'a value'} {value!r}" for leaf, value in assignment.items())
