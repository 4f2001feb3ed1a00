"""Why a one-shot algorithm cannot take a space, told before anything runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from archsearch.space import Categorical, Choice, Subset


def unmixable(choices: Sequence[Choice]) -> list[str]:
    """Choices that can only be decided, not mixed: one sentence each."""
    return [
        f"{choice.where} is a choice of values, which cannot be mixed: take a strategy that samples (spos, enas, "
        "regularized-evolution, …), or make it a layer choice"
        for choice in choices
        if not isinstance(choice, Categorical | Subset)
    ]
