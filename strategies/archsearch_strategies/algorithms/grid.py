"""Grid search."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from archsearch.space import Architecture, ArchitectureError, Rng, SearchSpace, SpaceError
from archsearch_strategies.algorithms.permutation import Permutation
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig


class Grid(Strategy["Grid.Config"]):
    """Every architecture of the space once, one after the other.

    The last choice varies fastest (`SearchSpace.at`). Nothing is listed in advance, shuffled or not, so a space of any
    size starts at once, at any position. The baseline that Bergstra and Bengio, "Random search
    for hyper-parameter optimization" (JMLR 2012), compare with.
    """

    several_objectives = True

    class Config(StrategyConfig):
        shuffle: bool = Field(
            default=False, description="Visit the architectures in an order that the experiment's seed permutes."
        )
        start: int = Field(default=0, ge=0, description="Position in the order to begin at; earlier ones are left out.")
        count: int | None = Field(default=None, ge=1, description="End after so many positions; None: at the end.")

    def check(self, space: SearchSpace) -> list[str]:
        try:
            size = space.size()
        except SpaceError as error:
            return [str(error)]
        if self.config.start >= size:
            return [f"start is {self.config.start}, but the space has the positions 0 … {size - 1}; give a smaller one"]
        return []

    async def search(self, run: Run) -> None:
        order = self._order(run.space, run.rng)
        async for _ in run.steady(lambda: next(order, None)):
            pass

    def _order(self, space: SearchSpace, rng: Rng) -> Iterator[Architecture]:
        size, start, count = space.size(), self.config.start, self.config.count
        end = size if count is None else min(size, start + count)
        permutation = Permutation(size, rng.fork("grid")) if self.config.shuffle else None
        for position in range(start, end):
            architecture = space.at(position if permutation is None else permutation[position])
            if not space.predicates or _allowed(space, architecture):
                yield architecture


def _allowed(space: SearchSpace, architecture: Architecture) -> bool:
    try:
        space.validate(architecture.to_json())
    except ArchitectureError:
        return False
    return True
