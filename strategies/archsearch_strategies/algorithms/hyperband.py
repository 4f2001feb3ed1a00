"""Hyperband."""

from __future__ import annotations

import math
from itertools import pairwise

from pydantic import Field

from archsearch_strategies.algorithms.fidelities import FidelityConfig, Halving, Rung
from archsearch_strategies.algorithms.random import Unseen
from archsearch_strategies.strategy import Run, Submission, Trial


class Hyperband(Halving["Hyperband.Config"]):
    """Successive halving in brackets, from many architectures trained a little to few trained in full.

    Li et al., "Hyperband: a novel bandit-based approach to hyperparameter optimization" (JMLR 2018), algorithm 1 with
    its factor 3. Bracket s of 0 … s_max starts with ceil((s_max + 1)/(s + 1) · R/r) random architectures at fidelity
    r, R being the highest; of each rung the best go on to the next, in number the ratio of the two fidelities. After
    the last bracket the first comes again, until the budget ends.

    An architecture is promoted before its rung is complete where no result that is still out can change that, and
    workers that a bracket has nothing for begin the next one: the choices are those of the synchronous algorithm, and
    no worker waits. With prior points the first `reduction` architectures are the most promising of them.
    """

    class Config(FidelityConfig):
        reduction: int = Field(
            default=3, ge=2, le=100, description="Each rung trains so many times longer, and takes one in so many."
        )

    config: Config

    @property
    def reduction(self) -> int:
        return self.config.reduction

    async def search(self, run: Run) -> None:
        brackets = _Brackets(run, self.levels, self.config.reduction)
        async for trial in run.steady(brackets.propose):
            brackets.learn(trial)


class _Brackets:
    """The brackets that are not over; those that began earlier are served first."""

    def __init__(self, run: Run, levels: list[int], starts: int) -> None:
        self._run = run
        self._levels = levels
        self._unseen = Unseen(run, starts=starts)
        self._open: list[_Bracket] = []
        self._begun = 0
        self._of: dict[int, tuple[_Bracket, Rung]] = {}

    def learn(self, trial: Trial) -> None:
        bracket, rung = self._of.pop(trial.number)
        rung.add(trial)
        bracket.idle = False
        if bracket.over:
            self._open.remove(bracket)

    def propose(self) -> Submission | None:
        for bracket in self._open:
            if bracket.idle:
                continue
            if (found := bracket.next(self._unseen)) is not None:
                return self._sent(bracket, *found)
            bracket.idle = True
        bracket = self._begin()
        found = bracket.next(self._unseen)
        if found is None:
            return None
        self._open.append(bracket)
        self._begun += 1
        return self._sent(bracket, *found)

    def _begin(self) -> _Bracket:
        first = self._begun % len(self._levels)
        return _Bracket(self._levels[first:], len(self._levels))

    def _sent(self, bracket: _Bracket, rung: Rung, submission: Submission) -> Submission:
        self._of[self._run.submitted + 1] = bracket, rung
        return submission


class _Bracket:
    """One run of successive halving."""

    def __init__(self, levels: list[int], brackets: int) -> None:
        self.idle = False  # it has nothing to start before its next result
        self._rungs = [Rung(level) for level in levels]
        # ceil(brackets / rungs · R / r) without rounding twice
        self._size = math.ceil(brackets * levels[-1] / (len(levels) * levels[0]))

    @property
    def over(self) -> bool:
        """Every rung has all its results."""
        return all(rung.ended == planned for rung, planned in zip(self._rungs, self._planned(), strict=True))

    def next(self, unseen: Unseen) -> tuple[Rung, Submission] | None:
        """A trial that may start now, and its rung; the highest first."""
        planned = self._planned()
        for index in reversed(range(len(self._rungs) - 1)):
            rung, above = self._rungs[index], self._rungs[index + 1]
            if rung.best(planned[index + 1] - (planned[index] - rung.ended)):
                return above, rung.promote(above)
        lowest = self._rungs[0]
        if lowest.sent < self._size:
            architecture = unseen.draw()
            if architecture is not None:
                return lowest, lowest.enter(architecture)
            self._size = lowest.sent  # the space has no more
            return self.next(unseen) if self._size else None
        return None

    def _planned(self) -> list[int]:
        """How many trials each rung has in all: of one below which all is known exactly, else at most."""
        planned = [self._size]
        for rung, above in pairwise(self._rungs):
            share = max(1, planned[-1] * rung.fidelity // above.fidelity)
            planned.append(min(share, rung.usable) if rung.ended == planned[-1] else share)
        return planned
