"""Exact size and direct indexing of spaces with conditions and constraints.

Choices are taken in order. What the rest of the space can depend on is a small *state*: which terms, that later
conditions ask for, hold; and the running totals of constraints that are not closed yet. Counting completions per state
costs choices × states.
"""

from __future__ import annotations

from collections.abc import Sequence

from archsearch.space.choices import Choice, Decision, Term
from archsearch.space.constraints import Constraint
from archsearch.space.errors import SpaceError

MAX_STATES = 1_000_000

_State = tuple[frozenset[Term], tuple[float, ...]]
_Signature = tuple[bool, ...]


class Counter:
    """Counts and indexes the architectures of ordered choices under conditions and declarative constraints.

    Raises:
        SpaceError: the constraints need more than a million states.
    """

    def __init__(self, choices: Sequence[Choice], constraints: Sequence[Constraint]) -> None:
        self._choices = choices
        self._constraints = constraints
        position = {choice.name: i for i, choice in enumerate(choices)}
        self._terms: list[list[Term]] = [[] for _ in choices]
        self._needed: dict[Term, int] = {}  # the last choice whose condition asks for the term
        for i, choice in enumerate(choices):
            for term in (term for terms in choice.when for term in terms):
                self._add(position, term)
                self._needed[term] = i
        self._closes = [-1] * len(constraints)
        for c, constraint in enumerate(constraints):
            for term, _ in constraint.terms:
                self._add(position, term)
                self._closes[c] = max(self._closes[c], position[term.choice])
        self._weights: list[dict[Term, list[tuple[int, float]]]] = [{} for _ in choices]
        for c, constraint in enumerate(constraints):
            for term, weight in constraint.terms:
                self._weights[position[term.choice]].setdefault(term, []).append((c, weight))
        self._signatures = [choice.signatures(terms) for choice, terms in zip(choices, self._terms, strict=True)]
        self._counts = self._count()

    def _add(self, position: dict[str, int], term: Term) -> None:
        terms = self._terms[position[term.choice]]
        if term not in terms:
            terms.append(term)

    def _start(self) -> _State:
        return frozenset(), (0,) * len(self._constraints)

    def _next(self, i: int, state: _State, signature: _Signature | None) -> _State | None:
        """The state after choice i; None where a constraint is broken. Signature None: the choice is not active."""
        held, totals = state
        now = list(totals)
        true = {term for term, holds in zip(self._terms[i], signature or (), strict=False) if holds}
        for term in true:
            for c, weight in self._weights[i].get(term, ()):
                now[c] += weight
        for c, closes in enumerate(self._closes):
            if closes == i:
                if not self._constraints[c].within(now[c]):
                    return None
                now[c] = 0
        return frozenset(term for term in held | true if self._needed.get(term, -1) > i), tuple(now)

    def _active(self, i: int, state: _State) -> bool:
        when = self._choices[i].when
        return not when or any(all(term in state[0] for term in terms) for terms in when)

    def _moves(self, i: int, state: _State) -> list[tuple[int, _State]]:
        """(how many decisions, the state they lead to), dead ends left out."""
        if not self._active(i, state):
            after = self._next(i, state, None)
            return [] if after is None else [(1, after)]
        moves = ((n, self._next(i, state, signature)) for signature, n in self._signatures[i].items())
        return [(n, after) for n, after in moves if after is not None]

    def _count(self) -> list[dict[_State, int]]:
        if any(closes == -1 and not self._constraints[c].within(0) for c, closes in enumerate(self._closes)):
            return [{self._start(): 0}] + [{} for _ in self._choices]
        layers: list[dict[_State, list[tuple[int, _State]]]] = []
        reached = [self._start()]
        seen = 0
        for i in range(len(self._choices)):
            layer = {state: self._moves(i, state) for state in reached}
            layers.append(layer)
            reached = list({after: None for moves in layer.values() for _, after in moves})
            seen += len(reached)
            if seen > MAX_STATES:
                raise SpaceError(
                    "this space cannot be counted: its conditions and constraints tie too many choices together "
                    f"(more than {MAX_STATES} states); use a strategy that samples, or fewer constraints"
                )
        counts: list[dict[_State, int]] = [dict.fromkeys(reached, 1)]
        for layer in reversed(layers):
            below = counts[-1]
            counts.append({state: sum(n * below[after] for n, after in moves) for state, moves in layer.items()})
        counts.reverse()
        return counts

    @property
    def size(self) -> int:
        """How many architectures there are."""
        return self._counts[0][self._start()]

    def at(self, index: int) -> dict[str, Decision]:
        """The architecture at an index below `size`; the last choice varies fastest."""
        state, decisions = self._start(), dict[str, Decision]()
        for i, choice in enumerate(self._choices):
            below = self._counts[i + 1]
            if not self._active(i, state):
                state = self._next(i, state, None) or state
            elif not self._terms[i]:
                state = self._next(i, state, ()) or state
                rank, index = divmod(index, below[state])
                decisions[choice.name] = choice.at(rank)
            else:
                decisions[choice.name], state, index = self._search(i, state, index)
        return decisions

    def _search(self, i: int, state: _State, index: int) -> tuple[Decision, _State, int]:
        """The decision of choice i in whose share of the completions the index falls."""
        after: dict[_Signature, _State | None] = {}
        for decision in self._choices[i].iterate():
            signature = tuple(term.holds(decision) for term in self._terms[i])
            if signature not in after:
                after[signature] = self._next(i, state, signature)
            follows = after[signature]
            share = 0 if follows is None else self._counts[i + 1].get(follows, 0)
            if follows is not None and index < share:
                return decision, follows, index
            index -= share
        raise IndexError("the index is beyond the size of the space")
