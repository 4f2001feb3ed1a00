"""Zero-cost proxies in a search: scores asked for once, architectures chosen by them, and the proof of their worth."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from archsearch.evaluate.proxies import SIZES, Proxy
from archsearch.protocol import TrialKind, TrialState
from archsearch.space import Architecture
from archsearch.spec.base import JsonObject, Model
from archsearch_strategies.algorithms.correlation import rank_correlation, ranks
from archsearch_strategies.strategy import Run, Submission, Trial

if TYPE_CHECKING:
    from archsearch_strategies.algorithms.random import Unseen

_CHUNK = 64  # architectures of one proxy trial at most
_EARLY = 5  # results after which the first correlations are noted, before any counts
_PATIENCE = 3  # proxy trials that may fail before the first succeeds
_LOWEST = float("-inf")
_PARAMS = Proxy.PARAMS.value

Scores = dict[str, float]


class Use(StrEnum):
    """What scores are used for."""

    WARM_START = "WarmStart"  # the first architectures are the best of many random ones
    FILTER = "Filter"  # each architecture that is tried is the best of a few
    FEATURE = "Feature"  # a predictor sees them


class ProxyOptions(Model):
    """Options of a strategy that uses zero-cost proxies."""

    use: Annotated[list[Use], Field(min_length=1, max_length=len(Use))] = Field(
        description="WarmStart: begin with the best of many random architectures; Filter: try the best of a few each "
        "time; Feature: show them to the predictor."
    )
    names: Annotated[list[Proxy], Field(min_length=1, max_length=len(Proxy))] = Field(
        default_factory=lambda: [Proxy.NASWOT, Proxy.SYNFLOW, Proxy.JACOV],
        description="Proxies; several are combined by the mean of their ranks. params and flops are always told too.",
    )
    candidates: int = Field(
        default=100, ge=2, le=10_000, description="Architectures scored at the start, and for each fit of a predictor."
    )
    per_trial: int = Field(default=5, ge=2, le=1000, description="Architectures scored for each one that Filter tries.")
    after: int = Field(
        default=20,
        ge=4,
        le=100_000,
        description="Results after which a proxy is dropped that ranks them no better than the number of parameters.",
    )


def allowing(*uses: Use) -> Any:
    """A validator of a config's field `proxies`: other uses are refused."""

    def check(options: ProxyOptions | None) -> ProxyOptions | None:
        for use in options.use if options is not None else ():
            if use not in uses:
                raise ValueError(f"use {use.value} is not known to this strategy; it knows {', '.join(uses)}")
        return options

    return field_validator("proxies")(check)


class Proxies:
    """The scores of one run. Nothing is asked for twice, by canonical hash; without options nothing at all.

    After `after` results with scores, and whenever their number has doubled, every proxy is compared with the number of
    parameters: one whose rank correlation with the results is not higher is dropped for good, the number of parameters
    itself where it has none above 0. The run's note `proxies` tells all correlations, those of params and flops too,
    and what was dropped.
    """

    def __init__(self, options: ProxyOptions | None, run: Run) -> None:
        self._options, self._run = options, run
        self._known: dict[str, Scores | None] = {}
        self._results: list[tuple[float, Scores]] = []
        self._mark = min(_EARLY, options.after) if options is not None else 0
        self._failed = 0
        self.trials = 0  # proxy trials that are finished
        self._left_out: dict[str, str] = {}
        self.active = [str(name) for name in dict.fromkeys(options.names)] if options is not None else []
        self.dropped: dict[str, str] = {}

    @property
    def options(self) -> ProxyOptions:
        """Only where there are any."""
        assert self._options is not None  # noqa: S101
        return self._options

    def used_for(self, use: Use) -> bool:
        """Whether scores are wanted for this, and a proxy is left to give them."""
        return self._options is not None and use in self._options.use and bool(self.active)

    def scores(self, architecture: Architecture) -> Scores | None:
        """Of an architecture that was scored; None where it has none."""
        return self._known.get(self._run.space.hash(architecture))

    async def score(self, architectures: Iterable[Architecture]) -> None:
        """Have these scored, by trials of the kind proxy, and wait for them."""
        space = self._run.space
        wanted = {digest: each for each in architectures if (digest := space.hash(each)) not in self._known}
        if not wanted or not self.active:
            return
        self._known |= dict.fromkeys(wanted)
        size = min(_CHUNK, ceil(len(wanted) / max(1, self._run.parallelism)))
        listed = list(wanted.items())
        chunks = [listed[start : start + size] for start in range(0, len(listed), size)]
        names = [*map(str, SIZES), *(name for name in self.active if name not in SIZES)]
        trials = await self._run.trials(
            Submission(
                kind=TrialKind.PROXY,
                params={"architectures": [each.to_json() for _, each in chunk], "proxies": names},
            )
            for chunk in chunks
        )
        self.trials += len(trials)
        for trial, chunk in zip(trials, chunks, strict=True):
            self._take(trial, [digest for digest, _ in chunk])

    def best(self, architectures: Sequence[Architecture], count: int) -> list[Architecture]:
        """The `count` most promising, best first: by the mean over the proxies of the rank among these."""
        if len(architectures) < 2 or not self.active:
            return list(architectures[:count])
        total = [sum(each) for each in zip(*map(ranks, self.columns(architectures)), strict=True)]
        order = sorted(range(len(architectures)), key=lambda place: (-total[place], place))
        return [architectures[place] for place in order[:count]]

    def columns(self, architectures: Sequence[Architecture]) -> list[list[float]]:
        """Of each proxy that is left its scores of these; minus infinity where there is none."""
        found = [self.scores(each) or {} for each in architectures]
        return [[each.get(name, _LOWEST) for each in found] for name in self.active]

    def learn(self, trial: Trial) -> None:
        """Take in a finished trial; compare the proxies with the number of parameters when it is time."""
        scores = self._known.get(trial.hash)
        if not trial.ok or scores is None:
            return
        self._results.append((trial.score, scores))
        if len(self._results) < self._mark:
            return
        correlations = self._correlations()
        after = self.options.after
        if len(self._results) >= after:
            self._drop(correlations)
        self._mark = after if len(self._results) < after else 2 * len(self._results)
        self._note(correlations)

    def _take(self, trial: Trial, hashes: list[str]) -> None:
        payload = trial.payload if isinstance(trial.payload, dict) else {}
        scores = payload.get("scores")
        if trial.state not in (TrialState.SUCCEEDED, TrialState.CACHED) or not isinstance(scores, list):
            self._failed += 1
            if self._failed >= _PATIENCE and not any(self._known.values()):
                self.dropped |= dict.fromkeys(self.active, f"no scores: {trial.message or 'its trials fail'}")
                self.active = []
                self._note({})
            return
        self._left_out |= payload.get("leftOut") or {}
        for digest, found in zip(hashes, scores, strict=False):
            if found is not None:
                self._known[digest] = {name: value for name, value in found.items() if value is not None}

    def _correlations(self) -> dict[str, float]:
        results = [result for result, _ in self._results]
        names = dict.fromkeys([*map(str, SIZES), *self.active])
        return {
            name: rank_correlation([scores.get(name, _LOWEST) for _, scores in self._results], results)
            for name in names
        }

    def _drop(self, correlations: dict[str, float]) -> None:
        bar = correlations[_PARAMS]
        for name in list(self.active):
            value, lowest = correlations[name], 0.0 if name == _PARAMS else bar
            if value <= lowest:
                self.active.remove(name)
                than = "no better than chance" if name == _PARAMS else f"not better than params ({bar:.2f})"
                self.dropped[name] = f"rank correlation {value:.2f} with {len(self._results)} results, {than}"

    def _note(self, correlations: dict[str, float]) -> None:
        note: JsonObject = {
            "results": len(self._results),
            "scored": sum(scores is not None for scores in self._known.values()),
            "rankCorrelation": {name: round(value, 4) for name, value in correlations.items()},
            "dropped": dict(self.dropped),
            "leftOut": dict(self._left_out),
        }
        self._run.note("proxies", note)


class Stock:
    """Architectures that proxies chose, waiting to be tried.

    Args:
        unseen: where architectures are counted as tried; those that were scored and not chosen are given back.
    """

    def __init__(self, options: ProxyOptions | None, run: Run, unseen: Unseen) -> None:
        self.proxies = Proxies(options, run)
        self._run, self._unseen = run, unseen
        self._chosen: deque[Architecture] = deque()

    def __len__(self) -> int:
        return len(self._chosen)

    def next(self, otherwise: Callable[[], Architecture | None]) -> Architecture | None:
        """The next chosen one; `otherwise()` where none waits, so that no worker does."""
        return self._chosen.popleft() if self._chosen else otherwise()

    async def warm(self, count: int) -> None:
        """For a warm start: the best `count` of many random architectures."""
        if self.proxies.used_for(Use.WARM_START) and not self._run.prior:  # earlier results tell more
            drawn = max(count, self.proxies.options.candidates)
            self._chosen.extend(await self._best([self._unseen.draw() for _ in range(drawn)], count))

    async def fill(self, draw: Callable[[], Architecture | None]) -> None:
        """For a filter: for each free worker the best of a few that `draw` gives (new ones, counted as tried)."""
        missing = self._run.free - len(self._chosen)
        if missing > 0 and self.proxies.used_for(Use.FILTER):
            few = range(self.proxies.options.per_trial)
            pools = [[draw() for _ in few] for _ in range(missing)]
            await self.proxies.score(each for pool in pools for each in pool if each is not None)
            for pool in pools:
                self._chosen.extend(await self._best(pool, 1))

    async def _best(self, drawn: Iterable[Architecture | None], count: int) -> list[Architecture]:
        pool = [each for each in drawn if each is not None]
        await self.proxies.score(pool)
        best = self.proxies.best(pool, count)
        kept = {self._run.space.hash(each) for each in best}
        for each in pool:
            if self._run.space.hash(each) not in kept:
                self._unseen.give_back(each)
        return best
