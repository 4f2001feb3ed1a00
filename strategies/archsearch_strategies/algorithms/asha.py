"""ASHA: asynchronous successive halving."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field

from archsearch.protocol import FIDELITY
from archsearch_strategies.algorithms.fidelities import FidelityConfig, Halving, Rung, left
from archsearch_strategies.algorithms.random import Unseen
from archsearch_strategies.strategy import Run, Submission, Trial


class ASHA(Halving["ASHA.Config"]):
    """Train many architectures a little, and promote the best of each rung as soon as they stand out.

    Li et al., "A system for massively parallel hyperparameter tuning" (MLSys 2020; arXiv 1810.05934), algorithm 2 with
    its reduction factor 4: whenever a worker is free, promote the best architecture that stands among the first
    1/reduction of the highest rung with such a one, else try a new random architecture. Where rungs are not exactly
    `reduction` apart, the share that is promoted is the ratio of their fidelities, so that all rungs take like amounts
    of training. A trial is an architecture at one rung; a promoted one goes on from its weights.

    Beyond the paper: when the budget of trials or the space runs out before any architecture came to the top, the best
    is taken there, so that the answer is one that was trained in full. With prior points the first `reduction`
    architectures are the most promising of them.
    """

    class Config(FidelityConfig):
        reduction: int = Field(
            default=4, ge=2, le=100, description="Each rung trains so many times longer, and takes one in so many."
        )

    config: Config

    @property
    def reduction(self) -> int:
        return self.config.reduction

    async def search(self, run: Run) -> None:
        ladder = _Ladder(run, self.levels, self.config.reduction)
        async for trial in run.steady(ladder.propose):
            ladder.learn(trial)


class _Ladder:
    """All rungs, the lowest first."""

    def __init__(self, run: Run, levels: list[int], starts: int) -> None:
        self._run = run
        self._unseen = Unseen(run, starts=starts)
        self._rungs = [Rung(level) for level in levels]
        self._of = {rung.fidelity: rung for rung in self._rungs}

    def learn(self, trial: Trial) -> None:
        self._of[trial.params[FIDELITY]].add(trial)

    def propose(self) -> Submission | None:
        if self._must_climb():
            return self._climb()
        for lower, upper in reversed(list(pairwise(self._rungs))):
            if lower.best(lower.ranked * lower.fidelity // upper.fidelity):
                return lower.promote(upper)
        architecture = self._unseen.draw()
        if architecture is not None:
            return self._rungs[0].enter(architecture)
        return None if self._run.outstanding or self._rungs[-1].ranked else self._climb()

    def _highest(self) -> int:
        """The highest rung with a trial that runs or may be promoted; the lowest where there is none."""
        return max((index for index, rung in enumerate(self._rungs) if rung.out or rung.best(rung.ranked)), default=0)

    def _must_climb(self) -> bool:
        """Whether what is left of the budget just takes the best to the top, where none has come yet."""
        top = len(self._rungs) - 1
        if self._rungs[top].ranked or not 0 < left(self._run) <= top:
            return False
        highest = self._highest()
        return highest < top and bool(self._rungs[highest].sent) and left(self._run) <= top - highest

    def _climb(self) -> Submission | None:
        """The best of the highest rung goes on; None: there is none, or one that runs may be better."""
        highest = self._highest()
        rung = self._rungs[highest]
        if highest + 1 == len(self._rungs) or rung.out or not rung.best(rung.ranked):
            return None
        return rung.promote(self._rungs[highest + 1])
