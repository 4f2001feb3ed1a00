"""ASHA's stopping rule."""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import Any, ClassVar

from pydantic import Field

from archsearch_strategies.stopping.base import Curve, StoppingConfig, StoppingRule


class ASHAConfig(StoppingConfig):
    """Options of the rule `asha`."""

    reduction: int = Field(
        default=4, ge=2, le=100, description="Rungs stand at grace times its powers; at each one in so many goes on."
    )


class ASHAStopping(StoppingRule):
    """Stop a trial that at a rung does not stand among the best 1/reduction of those that came there.

    Li et al., "A system for massively parallel hyperparameter tuning" (MLSys 2020; arXiv 1810.05934), section 3:
    successive halving without waiting, in the form that stops instead of pausing. Rungs stand at grace · reduction^k
    steps. A trial is looked at once at each rung, at its first report from there on; it goes on where fewer than
    `reduction` trials came to the rung, itself among them.
    """

    Config: ClassVar[type[StoppingConfig]] = ASHAConfig
    name: ClassVar[str] = "asha"

    def __init__(self, config: ASHAConfig, objectives: Any) -> None:
        super().__init__(config, objectives)
        self._rungs: dict[int, list[float]] = {}  # values by units of training, the worst first
        self._next: dict[int, int] = {}  # by curve the rung that it comes to next

    def judge(self, curve: Curve, units: int, value: float) -> str:
        rung = self._next.get(id(curve), self.config.grace)
        reason = ""
        while units >= rung:
            reason = self._enter(rung, value) or reason
            rung *= self.config.reduction
        self._next[id(curve)] = rung
        return reason

    def _enter(self, rung: int, value: float) -> str:
        values = self._rungs.setdefault(rung, [])
        insort(values, value)
        places = len(values) // self.config.reduction
        better = len(values) - bisect_right(values, value)
        if not places or value >= values[len(values) - places]:
            return ""
        return (
            f"stopped at {rung} steps: {self._shown(value)} is not among the best {places} of {len(values)} trials "
            f"there ({better} are better)"
        )
