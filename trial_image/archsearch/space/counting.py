"""Exact size and direct indexing of spaces with conditions and constraints.

Choices are taken in order. What the rest of the space can depend on is a small *state*: which terms, that later
conditions ask for, hold; and the running totals of constraints that are not closed yet. Counting completions per state
costs choices × states.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from archsearch.space.choices import Choice, Decision, Subset, Term
from archsearch.space.constraints import Constraint
from archsearch.space.errors import SpaceError

MAX_STATES = 100_000

_Totals = tuple[float, ...]
_State = tuple[
    frozenset[Term], _Totals
]  # of a choice's outcome: the terms that it makes hold, and what it adds to the totals


class Counter:
    """Counts and indexes the architectures of ordered choices under conditions and declarative constraints.

    Raises:
        SpaceError: the constraints need more than a hundred thousand states.
    """

    def __init__(self, choices: Sequence[Choice], constraints: Sequence[Constraint]) -> None:
        self._choices = choices
        self._constraints = constraints
        self._zero: _Totals = (0,) * len(constraints)
        position = {choice.name: i for i, choice in enumerate(choices)}
        self._terms: list[dict[Term, list[tuple[int, float]]]] = [{} for _ in choices]  # with (constraint, weight)
        self._needed: dict[Term, int] = {}  # the last choice whose condition asks for the term
        for i, choice in enumerate(choices):
            for term in (term for terms in choice.when for term in terms):
                self._terms[position[term.choice]].setdefault(term, [])
                self._needed[term] = i
        self._closes = [-1] * len(constraints)
        for c, constraint in enumerate(constraints):
            for term, weight in constraint.terms:
                self._terms[position[term.choice]].setdefault(term, []).append((c, weight))
                self._closes[c] = max(self._closes[c], position[term.choice])
        self._outcomes = [self._outcomes_of(i) for i in range(len(choices))]
        self._counts = self._count()

    def _outcome(self, i: int, decision: Decision) -> _State:
        held = [term for term in self._terms[i] if term.holds(decision)]
        return frozenset(t for t in held if t in self._needed), self._added(self._zero, i, held)

    def _added(self, totals: _Totals, i: int, terms: Iterable[Term]) -> _Totals:
        now = list(totals)
        for term in terms:
            for c, weight in self._terms[i][term]:
                now[c] += weight
        return tuple(now)

    def _outcomes_of(self, i: int) -> dict[_State, int]:
        """How many decisions of a choice have each outcome."""
        choice = self._choices[i]
        if not self._terms[i]:
            return {(frozenset(), self._zero): choice.count}
        if isinstance(choice, Subset):
            return self._subset_outcomes(i, choice)
        counts: dict[_State, int] = {}
        for option in choice.options:
            outcome = self._outcome(i, option)
            counts[outcome] = counts.get(outcome, 0) + 1
        return counts

    def _subset_outcomes(self, i: int, choice: Subset) -> dict[_State, int]:
        """Input by input, so that many inputs cost outcomes × inputs and not 2**inputs."""
        none: frozenset[Term] = frozenset()
        counts: dict[tuple[frozenset[Term], _Totals, int], int] = {(none, self._zero, 0): 1}
        for candidate in choice.candidates:
            hit = [term for term in self._terms[i] if candidate in term.values]
            # Whether a term holds already matters only where another input can do it too, or a condition asks.
            kept = frozenset(term for term in hit if len(term.values) > 1 or term in self._needed)
            found: dict[tuple[frozenset[Term], _Totals, int], int] = {}
            for (held, totals, taken), count in counts.items():
                more = self._added(totals, i, (term for term in hit if term not in held))
                with_it = (held | kept, more, 0 if choice.choose is None else taken + 1)
                for key in ((held, totals, taken), with_it):
                    if key[2] <= (choice.choose or 0):
                        found[key] = found.get(key, 0) + count
            counts = found
            self._bound(len(counts))
        outcomes: dict[_State, int] = {}
        for (held, totals, taken), count in counts.items():
            if taken == (choice.choose or 0):
                outcome = frozenset(term for term in held if term in self._needed), totals
                outcomes[outcome] = outcomes.get(outcome, 0) + count
        return outcomes

    def _start(self) -> _State:
        return frozenset(), self._zero

    def _next(self, i: int, state: _State, outcome: _State | None) -> _State | None:
        """The state after choice i; None where a constraint is broken. Outcome None: the choice is not active."""
        held, totals = state
        if outcome is not None:
            held = held | outcome[0]
            totals = tuple(a + b for a, b in zip(totals, outcome[1], strict=True))
        for c, closes in enumerate(self._closes):
            if closes == i:
                if not self._constraints[c].within(totals[c]):
                    return None
                totals = (*totals[:c], 0, *totals[c + 1 :])
        return frozenset(term for term in held if self._needed[term] > i), totals

    def _active(self, i: int, state: _State) -> bool:
        when = self._choices[i].when
        return not when or any(all(term in state[0] for term in terms) for terms in when)

    def _moves(self, i: int, state: _State) -> list[tuple[int, _State]]:
        """(how many decisions, the state they lead to), dead ends left out."""
        if not self._active(i, state):
            after = self._next(i, state, None)
            return [] if after is None else [(1, after)]
        moves = ((n, self._next(i, state, outcome)) for outcome, n in self._outcomes[i].items())
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
            self._bound(seen)
        counts: list[dict[_State, int]] = [dict.fromkeys(reached, 1)]
        for layer in reversed(layers):
            below = counts[-1]
            counts.append({state: sum(n * below[after] for n, after in moves) for state, moves in layer.items()})
        counts.reverse()
        return counts

    def _bound(self, states: int) -> None:
        if states > MAX_STATES:
            raise SpaceError(
                "this space cannot be counted: its conditions and constraints tie too many choices together "
                f"(more than {MAX_STATES} states); use a strategy that samples, or fewer constraints"
            )

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
                state = self._next(i, state, None) or state
                rank, index = divmod(index, below[state])
                decisions[choice.name] = choice.at(rank)
            else:
                decisions[choice.name], state, index = self._search(i, state, index)
        return decisions

    def _search(self, i: int, state: _State, index: int) -> tuple[Decision, _State, int]:
        """The decision of choice i in whose share of the completions the index falls."""
        after: dict[_State, _State | None] = {}
        for decision in self._choices[i].iterate():
            outcome = self._outcome(i, decision)
            if outcome not in after:
                after[outcome] = self._next(i, state, outcome)
            follows = after[outcome]
            share = 0 if follows is None else self._counts[i + 1].get(follows, 0)
            if follows is not None and index < share:
                return decision, follows, index
            index -= share
        raise IndexError("the index is beyond the size of the space")
