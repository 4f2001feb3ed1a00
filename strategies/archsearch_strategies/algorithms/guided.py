"""Strategies that fit a model to the results and try what it proposes, at any concurrency."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from archsearch.protocol import FailureClass, TrialKind, TrialState
from archsearch.space import Architecture
from archsearch_strategies.algorithms.proxies import ProxyOptions, Stock
from archsearch_strategies.algorithms.random import Unseen
from archsearch_strategies.strategy import PriorPoint, Run, Trial

_BATCH = 50  # proposals of one fit at most
_FITS_EACH = 500  # finished trials for one more proposal a fit, so that the fits of a long run grow with its logarithm


class Guided(ABC):
    """Steady search by fits. Random architectures until `initial` results are there, and where a fit has none to give.

    With prior points those first architectures are the most promising of them, and fits learn of all.

    A fit runs when a worker is free and every result is learned, outside the event loop and recorded (`Run.memo`). Its
    answer is a JSON object whose `proposals` are architectures.

    Args:
        initial: usable results before the first fit.
        window: results that a fit sees.
        proxies: options of zero-cost proxies, for a warm start.
    """

    def __init__(self, run: Run, *, initial: int, window: int, proxies: ProxyOptions | None = None) -> None:
        self.run = run
        self.unseen = Unseen(run, starts=initial)
        self.stock = Stock(proxies, run, self.unseen)
        self.history = History(window, run.prior)
        self.learned = 0  # results so far, failed ones too
        self.fits = 0
        self._initial = initial
        self._window = window
        self._proposals: deque[Architecture] = deque()
        self._out: dict[int, Architecture] = {}

    @abstractmethod
    def fit(self, wanted: int, pending: list[Architecture]) -> Callable[[], dict[str, Any]]:
        """The computation of `wanted` proposals, while `pending` are being tried. It sees only what is known now."""

    async def prepare(self) -> None:  # noqa: B027  # most fits need nothing
        """Ask for what the next fit needs besides results."""

    def take(self, answer: dict[str, Any]) -> None:
        """Use the answer of a fit."""
        proposals = [self.run.space.validate(each) for each in answer["proposals"]]
        self._proposals.extend(each for each in proposals if self.unseen.take(each))

    async def search(self) -> None:
        await self.stock.warm(self._initial)
        async for trial in self.run.steady(self._propose):
            self.learned += 1
            del self._out[trial.number]
            self.history.add(trial)
            self.stock.proxies.learn(trial)
            if self._due:
                self.fits += 1
                await self.prepare()
                self.take(await self.run.memo(self._fit()))

    @property
    def _waiting(self) -> bool:
        """Results are there that were not learned yet."""
        return self.run.handed - self.stock.proxies.trials > self.learned

    @property
    def _due(self) -> bool:
        enough = self.history.usable >= self._initial and self.history.varied
        return enough and not self._waiting and len(self._proposals) < self.run.free

    def _fit(self) -> Callable[[], dict[str, Any]]:
        wanted = max(self.run.free - len(self._proposals), 1 + self.learned // _FITS_EACH)
        return self.fit(min(wanted, _BATCH), self.pending)

    @property
    def pending(self) -> list[Architecture]:
        """What is being tried or will be."""
        return [*self._out.values(), *self._proposals][-self._window :]

    def _propose(self) -> Architecture | None:
        if self._proposals:
            architecture: Architecture | None = self._proposals.popleft()
        elif self._waiting:
            return None  # they are learned first
        else:
            architecture = self.stock.next(self.unseen.draw)
        if architecture is not None:
            self._out[self.run.submitted + 1] = architecture
        return architecture


class History:
    """Finished trials of which a fit may learn; keeps the best half of a window and the newest.

    Architectures that turned out infeasible or too large for memory belong to it, since that is their own doing; other
    failures tell nothing. What is left of the window prior points fill, as far as this run has no result of their
    architecture. A group whose values are not comparable is shifted by the mean difference to this run's results of the
    same architectures, and left out while there are none.
    """

    def __init__(self, window: int, prior: Sequence[PriorPoint] = ()) -> None:
        self._window = window
        self._prior = prior
        self._of_hash: dict[str, list[PriorPoint]] = defaultdict(list)
        for point in prior:
            self._of_hash[point.hash].append(point)
        self._known: set[str] = set()  # architectures of prior points that this run has results of
        self._shifts: dict[int, tuple[float, int]] = {}  # by group: sum of the differences, and how many
        self._best: list[tuple[float, int, Trial]] = []  # a heap, the worst first
        self._newest: deque[Trial] = deque(maxlen=window)
        self.usable = 0
        self._range = (float("inf"), float("-inf"))

    @property
    def varied(self) -> bool:
        """Not all scores are equal."""
        return self._range[0] < self._range[1]

    def add(self, trial: Trial) -> None:
        if not trial.ok:
            if trial.state is TrialState.INFEASIBLE or trial.failure is FailureClass.OUT_OF_MEMORY:
                self._newest.append(trial)
            return
        self.usable += 1
        self._compare(trial)
        self._range = (min(self._range[0], trial.score), max(self._range[1], trial.score))
        self._newest.append(trial)
        heapq.heappush(self._best, (trial.score, -trial.number, trial))
        if len(self._best) > self._window // 2:
            heapq.heappop(self._best)

    def window(self) -> list[Trial]:
        """At most `window` trials, the best first."""
        kept = [trial for _, _, trial in sorted(self._best, reverse=True, key=lambda each: each[:2])]
        numbers = {trial.number for trial in kept}
        newest = (trial for trial in reversed(self._newest) if trial.number not in numbers)
        kept += list(islice(newest, self._window - len(kept)))
        prior = list(islice(self._earlier(), self._window - len(kept)))
        return sorted(kept + prior, key=lambda trial: -trial.score) if prior else kept

    def _compare(self, trial: Trial) -> None:
        for point in self._of_hash.get(trial.hash, ()):
            self._known.add(trial.hash)
            total, count = self._shifts.get(point.group, (0.0, 0))
            self._shifts[point.group] = (total + trial.score - point.score, count + 1)

    def _earlier(self) -> Iterator[Trial]:
        """Prior points as trials, numbered below 1."""
        for index, point in enumerate(self._prior):
            total, count = self._shifts.get(point.group, (0.0, 0))
            if point.hash in self._known or (point.group and not count):
                continue
            shift = total / count if point.group else 0.0
            trial = Trial(-index, TrialKind.EVALUATE, point.architecture, point.hash, {}, 0, TrialState.CACHED)
            trial.metrics, trial.values = point.metrics, (point.score + shift,)
            yield trial


def scores(trials: list[Trial]) -> list[float]:
    """The trials' scores; the lowest of them for those without a result."""
    known = [trial.score for trial in trials if trial.ok]
    return [trial.score if trial.ok else min(known) for trial in trials]
