"""Random search without repetition."""

from __future__ import annotations

from collections import Counter, deque

from pydantic import Field

from archsearch.space import Architecture, SpaceError
from archsearch.space.isomorphism import has_canonicaliser
from archsearch_strategies.algorithms.proxies import ProxyOptions, Stock, Use, allowing
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig

# Draws that may repeat known architectures before the rest of a small space is listed and drawn from instead.
_REPEATS = 200
# Spaces up to this size are listed when drawing finds nothing new.
_LISTABLE = 1_000_000


class RandomSearch(Strategy["RandomSearch.Config"]):
    """Uniform random architectures, none twice (by canonical hash); ends when the space is exhausted.

    The baseline of Li and Talwalkar, "Random search and reproducibility for neural architecture search" (UAI 2019).
    """

    several_objectives = True

    class Config(StrategyConfig):
        proxies: ProxyOptions | None = Field(
            default=None, description="Zero-cost proxies that choose among random architectures; use Filter."
        )
        _known_use = allowing(Use.FILTER)

    async def search(self, run: Run) -> None:
        unseen = Unseen(run)
        stock = Stock(self.config.proxies, run, unseen)
        await stock.fill(unseen.draw)
        async for trial in run.steady(lambda: stock.next(unseen.draw)):
            stock.proxies.learn(trial)
            await stock.fill(unseen.draw)


class Unseen:
    """The architectures of a run's space that were tried, by canonical hash, and draws of others.

    Args:
        starts: so many draws give the most promising architectures of earlier runs, where there are any.
    """

    def __init__(self, run: Run, *, starts: int = 0) -> None:
        self._space, self._rng = run.space, run.rng
        self._seen: set[str] = set()
        self._starts = deque(starting_points(run, starts))
        self._rest: list[Architecture] | None = None  # shuffled, once drawing gave only repeats
        self._forms: Counter[str] | None = Counter() if has_canonicaliser(run.space.canonicaliser) else None

    def __contains__(self, architecture: Architecture) -> bool:
        return self._space.hash(architecture) in self._seen

    def take(self, architecture: Architecture) -> bool:
        """Count an architecture as tried; False where it was before."""
        digest = self._space.hash(architecture)
        if digest in self._seen:
            return False
        self._seen.add(digest)
        if self._forms is not None:
            self._forms[self._space.hash(architecture, isomorphic=True)] += 1
        return True

    def fresh(self, architecture: Architecture) -> bool:
        """Neither it was tried nor, as far as the space's canonicaliser tells, one that computes the same."""
        if self._forms is None:
            return architecture not in self
        return not self._forms[self._space.hash(architecture, isomorphic=True)]

    def give_back(self, architecture: Architecture) -> None:
        """Count an architecture as not tried after all."""
        self._seen.discard(self._space.hash(architecture))
        if self._forms is not None:
            self._forms[self._space.hash(architecture, isomorphic=True)] -= 1
        if self._rest is not None:
            self._rest.insert(0, architecture)

    def draw(self) -> Architecture | None:
        """A new architecture, or None when the space has no more."""
        while self._starts:
            architecture = self._starts.popleft()
            if self.take(architecture):
                return architecture
        if self._rest is None:
            for _ in range(_REPEATS):
                architecture = self._space.sample(self._rng)
                if self.take(architecture):
                    return architecture
            self._rest = self._list_rest()
        while self._rest:
            architecture = self._rest.pop()
            if self.take(architecture):
                return architecture
        return None

    def _list_rest(self) -> list[Architecture]:
        try:
            if self._space.size() > _LISTABLE:
                return []
        except SpaceError:  # too entangled to count
            return []
        rest = [each for each in self._space.enumerate() if self._space.hash(each) not in self._seen]
        self._rng.shuffle(rest)
        return rest


def starting_points(run: Run, count: int) -> list[Architecture]:
    """The most promising architectures of earlier runs, each once, at most `count`."""
    found: dict[str, Architecture] = {}
    for point in run.prior:
        if len(found) >= count:
            break
        found.setdefault(point.hash, point.architecture)
    return list(found.values())
