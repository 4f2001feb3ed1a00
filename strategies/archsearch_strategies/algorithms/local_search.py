"""Local search."""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from itertools import islice

from pydantic import Field

from archsearch.space import Architecture
from archsearch_strategies.algorithms.proxies import ProxyOptions, Stock, Use, allowing
from archsearch_strategies.algorithms.random import Unseen
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig, Trial

# Neighbourhoods beyond this size (subsets of many inputs) are sampled.
_NEIGHBOURS = 5000


class Step(StrEnum):
    """When a climb moves."""

    FIRST = "First"  # to the first neighbour that is better
    BEST = "Best"  # to the best of all neighbours, when all are known


class LocalSearch(Strategy["LocalSearch.Config"]):
    """Move to a better neighbour until there is none, then start anew.

    White, Nolen and Savani, "Exploring the loss landscape in neural architecture search" (UAI 2021; arXiv 2005.02960),
    algorithm 1, with restarts from a random architecture; `First` does not wait for the whole neighbourhood, and needs
    fewer trials. A neighbour differs in one decision. What is known already is looked up, not tried again. Workers that
    no climb has something for begin another one, so that none idles at any concurrency. A climb never moves to a trial
    that failed.
    """

    class Config(StrategyConfig):
        initial: int = Field(
            default=10, ge=1, le=100_000, description="Random architectures whose best is the first start."
        )
        step: Step = Field(
            default=Step.FIRST,
            description="First: move to the first better neighbour; Best: to the best when all neighbours are known.",
        )
        proxies: ProxyOptions | None = Field(
            default=None,
            description="Zero-cost proxies that choose the first architectures (use WarmStart) or which neighbours are "
            "tried first (Filter).",
        )
        _known_use = allowing(Use.WARM_START, Use.FILTER)

    async def search(self, run: Run) -> None:
        climbing = _Climbing(self.config, run)
        await climbing.stock.warm(self.config.initial)
        async for trial in run.steady(climbing.propose):
            climbing.learn(trial)
            await climbing.order()


class _Climb:
    """One walk uphill: where it stands, and which neighbours are left to try."""

    def __init__(self, starts: int) -> None:
        self.starts = starts  # random architectures still to be tried before it stands anywhere
        self.here: Architecture | None = None
        self.score = float("-inf")
        self.todo: deque[Architecture] = deque()
        self.ordered = False  # `todo`, by proxies
        self.out = 0  # trials whose results are to come
        self.best: Trial | None = None  # of those that came since the last move


class _Climbing:
    """All climbs of a run. The one that stands highest and has something to try is served first."""

    def __init__(self, config: LocalSearch.Config, run: Run) -> None:
        self._step, self._run = config.step, run
        self._unseen = Unseen(run, starts=config.initial)
        self.stock = Stock(config.proxies, run, self._unseen)
        self._known: dict[str, tuple[float, Architecture]] = {}
        self._climbs = [_Climb(config.initial)]
        self._of: dict[int, _Climb] = {}

    def propose(self) -> Architecture | None:
        for climb in sorted(self._climbs, key=lambda each: -each.score):
            architecture = self._next(climb)
            if architecture is not None:
                return self._sent(climb, architecture)
        start = self.stock.next(self._unseen.draw)
        if start is None:
            return None
        self._climbs.append(_Climb(0))
        return self._sent(self._climbs[-1], start)

    def learn(self, trial: Trial) -> None:
        self.stock.proxies.learn(trial)
        climb = self._of.pop(trial.number)
        climb.out -= 1
        if trial.ok and trial.architecture is not None:
            self._known[trial.hash] = (trial.score, trial.architecture)
            if climb.best is None or trial.score > climb.best.score:
                climb.best = trial
        if self._step is Step.FIRST and climb.here is not None:
            self._move(climb)

    async def order(self) -> None:
        """For a filter: put the neighbours that are to be tried in the order that proxies promise."""
        proxies = self.stock.proxies
        if not proxies.used_for(Use.FILTER):
            return
        for climb in self._climbs:
            if not (climb.todo or climb.out or climb.starts or self._move(climb)):
                self._look_up(climb)
            if climb.todo and not climb.ordered:
                todo = list(islice(climb.todo, proxies.options.candidates))
                await proxies.score(todo)
                climb.todo = deque([*proxies.best(todo, len(todo)), *islice(climb.todo, len(todo), None)])
                climb.ordered = True

    def _next(self, climb: _Climb) -> Architecture | None:
        """What this climb wants tried now; a climb that has come to its end is dropped."""
        if climb.starts:
            climb.starts -= 1
            return self.stock.next(self._unseen.draw)
        while True:
            while climb.todo:
                architecture = climb.todo.popleft()
                if self._unseen.take(architecture):
                    return architecture
            if climb.out:
                return None
            if not (self._move(climb) or self._look_up(climb)):
                self._climbs.remove(climb)
                return None

    def _sent(self, climb: _Climb, architecture: Architecture) -> Architecture:
        climb.out += 1
        self._of[self._run.submitted + 1] = climb
        return architecture

    def _move(self, climb: _Climb) -> bool:
        """To the best result that came, if it is better."""
        best, climb.best = climb.best, None
        if best is None or best.architecture is None or best.score <= climb.score:
            return False
        climb.here, climb.score = best.architecture, best.score
        self._look_up(climb)
        return True

    def _look_up(self, climb: _Climb) -> bool:
        """On over known neighbours while one is better, then list the unknown ones; whether there is more to do."""
        if climb.here is None:
            return False
        while True:
            neighbours = self._neighbours(climb.here)
            known = [self._known[h] for h in map(self._run.space.hash, neighbours) if h in self._known]
            score, better = max(known, key=lambda each: each[0], default=(climb.score, climb.here))
            if score <= climb.score:
                break
            climb.here, climb.score = better, score
        climb.todo = deque(each for each in neighbours if each not in self._unseen)
        climb.ordered = False
        return bool(climb.todo)

    def _neighbours(self, architecture: Architecture) -> list[Architecture]:
        space, rng = self._run.space, self._run.rng
        listed = list(islice(space.neighbours(architecture, rng), _NEIGHBOURS + 1))
        if len(listed) > _NEIGHBOURS:
            listed = [space.mutate(architecture, rng) for _ in range(_NEIGHBOURS)]
        rng.shuffle(listed)
        return listed
