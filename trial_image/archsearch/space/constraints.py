"""Declarative constraints: linear bounds over terms, which travel with the space's JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from archsearch.space.choices import MAX_NAME, Choice, Decisions, Subset, Term
from archsearch.space.errors import SpaceError, shown


@dataclass(frozen=True, slots=True)
class Constraint:
    """The weights of the terms that hold add up to a number from `least` to `most` (None: no bound).

    Attributes:
        name: what messages call it.
        terms: (term, weight) pairs; terms on inactive choices do not hold.
    """

    name: str
    terms: tuple[tuple[Term, float], ...]
    least: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= MAX_NAME or not self.name.isprintable():
            raise SpaceError(f"a constraint has a name of 1 to {MAX_NAME} printable characters, not {shown(self.name)}")
        for number in (self.least, self.most, *(weight for _, weight in self.terms)):
            if number is not None and (isinstance(number, bool) or not math.isfinite(number)):
                raise SpaceError(f"constraint {self.name!r}: {shown(number)} is not a finite number")
        if self.least is None and self.most is None:
            raise SpaceError(f"constraint {self.name!r} has no bound; give min, max or both")

    @classmethod
    def forbid(cls, name: str, *terms: Term) -> Constraint:
        """Not all of the terms at once."""
        return cls(name, tuple((term, 1) for term in terms), most=len(terms) - 1)

    @classmethod
    def count(
        cls, name: str, terms: Iterable[Term], *, least: int | None = None, most: int | None = None
    ) -> Constraint:
        """How many of the terms may hold."""
        return cls(name, tuple((term, 1) for term in terms), least, most)

    @classmethod
    def total(
        cls, name: str, choices: Iterable[Choice], *, least: float | None = None, most: float | None = None
    ) -> Constraint:
        """Bounds on the sum of the numbers that ordinal choices take and of the numbers of inputs that subsets choose.

        Raises:
            SpaceError: a choice has values that are no numbers.
        """
        return cls(name, tuple(pair for choice in choices for pair in _amounts(name, choice)), least, most)

    def allows(self, decisions: Decisions) -> bool:
        """Whether these decisions keep the bounds."""
        return self.within(sum(weight for term, weight in self.terms if term.holds(decisions.get(term.choice))))

    def within(self, total: float) -> bool:
        return (self.least is None or total >= self.least) and (self.most is None or total <= self.most)

    def to_json(self) -> dict[str, Any]:
        terms = [
            {"choice": term.choice, "in": list(term.values)} | ({} if weight == 1 else {"weight": weight})
            for term, weight in self.terms
        ]
        bounds = {key: value for key, value in (("min", self.least), ("max", self.most)) if value is not None}
        return {"name": self.name, "terms": terms, **bounds}


def _amounts(name: str, choice: Choice) -> list[tuple[Term, float]]:
    if isinstance(choice, Subset):
        return [(Term(choice.name, (candidate,)), 1) for candidate in choice.candidates]
    pairs: list[tuple[Term, float]] = []
    for option in choice.options:
        if isinstance(option, str | bool):
            raise SpaceError(f"constraint {name!r}: {choice.where} has the value {option!r}, which cannot be summed")
        pairs.append((Term(choice.name, (option,)), option))
    return pairs
