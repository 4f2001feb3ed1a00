"""The base class of every strategy, and of its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from archsearch.protocol import TrialKind
from archsearch.space import SearchSpace
from archsearch.spec.base import Model
from archsearch_strategies.strategy.run import Run

C = TypeVar("C", bound="StrategyConfig")


class StrategyConfig(Model):
    """Base of every strategy's options. Names are camelCase in a manifest; unknown ones are refused."""


class Strategy(Generic[C]):
    """An algorithm that chooses architectures.

    A subclass has a `Config`, says what it can take, and implements `search`. It keeps no state on disk: after a
    restart `search` is started again and sees the same results in the same order. It awaits nothing but `run.*`,
    draws randomness from `run.rng` alone, and looks at no clock.
    """

    Config: ClassVar[type[StrategyConfig]] = StrategyConfig
    several_objectives: ClassVar[bool] = False  # it makes a Pareto search of several
    reuses_weights: ClassVar[bool] = False  # its trials may begin with any earlier one's weights: all are kept
    retrains: ClassVar[int] = 0  # how many of the best are trained again where the manifest does not say
    controls: ClassVar[int] = 0  # how many random architectures of equal size are trained beside them
    kinds: ClassVar[tuple[TrialKind, ...]] = (TrialKind.EVALUATE,)  # the trial kinds that it submits
    multi_fidelity: ClassVar[bool] = False  # reuses them only to train an architecture further: once, then they may go

    def __init__(self, config: C) -> None:
        self.config = config
        self.fidelities: Sequence[int] = ()  # what the evaluator offers, ascending; empty where it does not say

    @property
    def highest_fidelity(self) -> float | None:
        """The most that a trial is trained; None where trials name no fidelity. A target counts only there."""
        return None

    def check_fidelities(self) -> list[str]:
        """Why this strategy cannot work with `fidelities`: one sentence each."""
        return []

    def check(self, space: SearchSpace) -> list[str]:
        """Why this strategy cannot search `space`: one sentence each. Called before the first trial."""
        return []

    async def search(self, run: Run) -> None:
        """The algorithm. Returns when it has nothing more to try; the budget is the driver's business."""
        raise NotImplementedError
