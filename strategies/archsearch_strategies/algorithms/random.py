"""Random search without repetition."""

from __future__ import annotations

from archsearch.space import Architecture, SpaceError
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
        """No options."""

    async def search(self, run: Run) -> None:
        unseen = Unseen(run)
        async for _ in run.steady(unseen.draw):
            pass


class Unseen:
    """The architectures of a run's space that were tried, by canonical hash, and draws of others."""

    def __init__(self, run: Run) -> None:
        self._space, self._rng = run.space, run.rng
        self._seen: set[str] = set()
        self._rest: list[Architecture] | None = None  # shuffled, once drawing gave only repeats

    def __contains__(self, architecture: Architecture) -> bool:
        return self._space.hash(architecture) in self._seen

    def take(self, architecture: Architecture) -> bool:
        """Count an architecture as tried; False where it was before."""
        digest = self._space.hash(architecture)
        if digest in self._seen:
            return False
        self._seen.add(digest)
        return True

    def draw(self) -> Architecture | None:
        """A new architecture, or None when the space has no more."""
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
