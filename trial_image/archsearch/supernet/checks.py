"""Why a one-shot algorithm cannot take a space, told before anything runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from archsearch.space import Categorical, Choice, SearchSpace, Subset
from archsearch.supernet.edges import edges_of


def unmixable(choices: Sequence[Choice]) -> list[str]:
    """Choices that can only be decided, not mixed: one sentence each."""
    return [
        f"{choice.where} is a choice of values, which cannot be mixed: take a strategy that samples (spos, enas, "
        "regularized-evolution, …), or make it a layer choice"
        for choice in choices
        if not isinstance(choice, Categorical | Subset)
    ]


def undrawable(space: SearchSpace) -> list[str]:
    """Choices of which one candidate cannot be drawn at a time: values, and input choices of several inputs that do not
    carry operations of their own; one sentence each."""
    edges = edges_of(space)
    several = [c for c in space.choices if isinstance(c, Subset) and c.choose != 1 and c.name not in edges]
    return unmixable(space.choices) + [
        f"{choice.where} chooses {'any number of' if choice.choose is None else choice.choose} inputs, of which this "
        "algorithm draws one: take darts, enas or spos"
        for choice in several
    ]
