"""Regularized (aging) evolution."""

from __future__ import annotations

from collections import deque
from typing import Self

from pydantic import Field, model_validator

from archsearch.space import Architecture, Rng, SpaceError
from archsearch_strategies.algorithms.proxies import ProxyOptions, Stock, Use, allowing
from archsearch_strategies.algorithms.random import Unseen
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig, Trial

# Mutations of one parent that are tried, and then mutations of mutations, before a random architecture is taken.
_ATTEMPTS = 20
_WALK = 200


class RegularizedEvolution(Strategy["RegularizedEvolution.Config"]):
    """Aging evolution: mutate the best of a random sample, append the child, let the oldest die.

    Real, Aggarwal, Huang and Le, "Regularized evolution for image classifier architecture search" (AAAI 2019),
    section 3 and algorithm 1, with the paper's P=100 and S=25. The sample is drawn without replacement. Steady state:
    every finished trial is followed by a new one, at any concurrency; while fewer than `population` trials are
    finished, random architectures fill the workers, so that a concurrency above the population does not stall. Failed
    trials never become parents. No architecture is tried twice, and none that computes the same as a known one as long
    as there are others.
    """

    class Config(StrategyConfig):
        population: int = Field(default=100, ge=2, le=100_000, description="Architectures that live at one time (P).")
        sample: int = Field(
            default=25, ge=1, le=100_000, description="Candidates for a parent (S), drawn without replacement."
        )

        proxies: ProxyOptions | None = Field(
            default=None,
            description="Zero-cost proxies that choose the first population (use WarmStart) or among children "
            "(Filter).",
        )
        _known_use = allowing(Use.WARM_START, Use.FILTER)

        @model_validator(mode="after")
        def _bounded(self) -> Self:
            if self.sample > self.population:
                raise ValueError(
                    f"sample is {self.sample}, more than population {self.population}: "
                    "the sample is drawn from the population"
                )
            return self

    async def search(self, run: Run) -> None:
        alive: deque[Trial] = deque(maxlen=self.config.population)
        unseen = Unseen(run, starts=self.config.population)
        stock = Stock(self.config.proxies, run, unseen)

        def breed() -> Architecture | None:
            founding = len(alive) + run.outstanding + len(stock) < self.config.population
            return _unseen(run, unseen, None if founding or not alive else self._parent(alive, run.rng))

        await stock.warm(self.config.population)
        await stock.fill(breed)
        async for trial in run.steady(lambda: stock.next(breed)):
            stock.proxies.learn(trial)
            if trial.ok:
                alive.append(trial)
            await stock.fill(breed)

    def _parent(self, alive: deque[Trial], rng: Rng) -> Architecture:
        parent = tournament(list(alive), self.config.sample, rng)
        if parent.architecture is None:
            raise ValueError(f"trial {parent.number} has no architecture")
        return parent.architecture


def _unseen(run: Run, unseen: Unseen, parent: Architecture | None) -> Architecture | None:
    """An architecture that was not tried yet: a mutation of `parent` (random without one); None: there is none left.

    Where a parent's neighbourhood looks exhausted, the walk goes on from the last child: the paper would train a known
    architecture once more, whose result is known here. One that computes the same as a known one comes last.
    """
    if parent is None:
        return unseen.draw()
    child, isomorphic = parent, None
    for attempt in range(_ATTEMPTS + _WALK):
        try:
            child = run.space.mutate(parent if attempt < _ATTEMPTS else child, run.rng)
        except SpaceError:  # nothing can be changed, or no child keeps the constraints
            break
        if unseen.fresh(child):
            break
        if isomorphic is None and child not in unseen:
            isomorphic = child
    for found in (child, isomorphic):
        if found is not None and unseen.take(found):
            return found
    return unseen.draw()


def tournament(alive: list[Trial], size: int, rng: Rng) -> Trial:
    """The best of `size` members drawn without replacement (all, where fewer live); ties go to the older."""
    drawn = rng.sample(alive, min(size, len(alive)))
    return max(drawn, key=lambda trial: (trial.score, -trial.number))
