"""Cells whose edges carry operations of their own (DARTS): which choices belong together. Imports no torch."""

from __future__ import annotations

from archsearch.space import Categorical, SearchSpace, Subset


def edges_of(space: SearchSpace) -> dict[str, dict[int, str]]:
    """Input choices whose inputs each carry an operation of their own: {choice: {position of the input: choice}}."""
    found: dict[str, dict[int, str]] = {}
    subsets = {choice.name: choice for choice in space.choices if isinstance(choice, Subset)}
    for choice in space.choices:
        terms = choice.when[0] if len(choice.when) == 1 else ()
        if isinstance(choice, Categorical) and len(terms) == 1 and terms[0].choice in subsets:
            subset = subsets[terms[0].choice]
            if len(terms[0].values) == 1:
                found.setdefault(subset.name, {})[subset.options.index(terms[0].values[0])] = choice.name
    return {name: edges for name, edges in found.items() if len(edges) == len(subsets[name].options)}
