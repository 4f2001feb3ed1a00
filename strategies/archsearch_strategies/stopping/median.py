"""Median stopping."""

from __future__ import annotations

from bisect import insort
from itertools import islice
from statistics import median
from typing import Any, ClassVar

from pydantic import Field

from archsearch_strategies.stopping.base import Curve, StoppingConfig, StoppingRule


class MedianConfig(StoppingConfig):
    """Options of the rule `median`."""

    min_trials: int = Field(
        default=5, ge=1, le=1_000_000, description="Ended trials that came as far, before any is stopped there."
    )


class MedianStopping(StoppingRule):
    """Stop a trial whose best value so far is worse than the median of what ended trials had on average by then.

    Golovin et al., "Google Vizier: a service for black-box optimization" (KDD 2017), on its median stopping rule: at a
    step the trial's best value up to it is compared with the median of the running averages, up to the same step, of
    the trials that have ended. Those that were stopped count as far as they came, else the survivors would raise the
    median by themselves.
    """

    Config: ClassVar[type[StoppingConfig]] = MedianConfig
    name: ClassVar[str] = "median"

    def __init__(self, config: MedianConfig, objectives: Any) -> None:
        super().__init__(config, objectives)
        self._ended: list[tuple[Curve, int, int]] = []  # and the units that it came through, after … up to
        self._known: dict[int, int] = {}  # by curve up to where it is in that list
        self._averages: dict[int, _Averages] = {}  # by units of training

    def ended(self, curve: Curve) -> None:
        since = self._known.get(id(curve), curve.units[0] - 1)
        self._known[id(curve)] = curve.units[-1]
        self._ended.append((curve, since, curve.units[-1]))

    def judge(self, curve: Curve, units: int, value: float) -> str:
        if units < self.config.grace:
            return ""
        averages = self._at(units)
        if len(averages.values) < self.config.min_trials:
            return ""
        best, middle = curve.best, median(averages.values)
        if best >= middle:
            return ""
        return (
            f"stopped after {units} steps: the best so far, {self._shown(best)}, is worse than {self._shown(middle)}, "
            f"the median of {len(averages.values)} trials' averages"
        )

    def _at(self, units: int) -> _Averages:
        """Running averages of the ended trials that came as far, sorted."""
        found = self._averages.setdefault(units, _Averages())
        for curve, since, last in islice(self._ended, found.seen, None):
            if since < units <= last:
                insort(found.values, curve.average(units))
        found.seen = len(self._ended)
        return found


class _Averages:
    def __init__(self) -> None:
        self.values: list[float] = []
        self.seen = 0  # ended trials that were looked at
