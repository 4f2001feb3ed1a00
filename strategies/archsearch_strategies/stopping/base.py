"""What a stopping rule is: it watches the table of trials, and says which running trial should end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from archsearch.protocol import MetricPoint, TrialKind
from archsearch.spec.base import Model
from archsearch.spec.experiment import Objective
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.strategy import CHECKPOINT_OF, objective_values

POINTS_KEPT = 4096  # of a curve

Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]


class StoppingConfig(Model):
    """Options that every rule has."""

    grace: Steps = Field(
        default=1, description="Steps that every trial may take. The trainer's steps are epochs: 4 is after four."
    )


class Curve:
    """A trial's learning curve so far: the first objective by units of training, larger is better.

    A step s, counted from 0 as the training evaluators do, is s + 1 units. Running best and average are kept at every
    point; of a very long curve at every other, so that its length is bounded.
    """

    def __init__(self) -> None:
        self.units: list[int] = []  # ascending
        self._best: list[float] = []
        self._average: list[float] = []
        self._count, self._sum = 0, 0.0

    def put(self, units: int, value: float) -> bool:
        """One point; False where training had come as far before, as after a lost worker: that report counts."""
        if self.units and units <= self.units[-1]:
            return False
        self._count += 1
        self._sum += value
        self._best.append(max(value, self._best[-1]) if self._best else value)
        self._average.append(self._sum / self._count)
        self.units.append(units)
        if len(self.units) > POINTS_KEPT:
            for kept in (self.units, self._best, self._average):
                del kept[:-1:2]
        return True

    @property
    def best(self) -> float:
        """The best value so far; there is one."""
        return self._best[-1]

    def average(self, units: int) -> float:
        """The mean of the values up to there; there is one."""
        return self._average[bisect_right(self.units, units) - 1]


class StoppingRule(ABC):
    """A rule over the intermediate results of all trials.

    It is told of each report and result as the ledger's records are applied, those of a replay among them, so that a
    restarted driver's rule knows what the first one knew. Its decisions are records of their own: what is read back
    from a ledger decides nothing again. Only trials that train an architecture are watched. A promoted trial goes on
    with the curve of the one whose weights it has.
    """

    Config: ClassVar[type[StoppingConfig]] = StoppingConfig
    name: ClassVar[str]

    def __init__(self, config: Any, objectives: Sequence[Objective]) -> None:
        self.config = config
        self._objectives = objectives[:1]
        self._curves: dict[int, Curve] = {}
        self._newest: tuple[Row | None, str] = None, ""

    def reported(self, row: Row, points: Sequence[MetricPoint]) -> None:
        """Points of a trial came in."""
        self._newest = None, ""
        if row.kind is not TrialKind.EVALUATE or row.number is None or row.finished:
            return
        reason = ""
        for point in points:
            values = objective_values(self._objectives, point.metrics)
            if values:
                curve = self._curve(row, row.number)
                if curve.put(point.step + 1, values[0]):
                    reason = self.judge(curve, point.step + 1, values[0]) or reason
        self._newest = row, reason

    def finished(self, row: Row) -> None:
        """A trial has its result."""
        curve = self._curves.get(row.number or 0)
        if curve is not None:
            self.ended(curve)

    def reason(self, row: Row) -> str:
        """Why the trial of the newest report should end; empty: it should go on."""
        newest, reason = self._newest
        return reason if newest is row else ""

    @abstractmethod
    def judge(self, curve: Curve, units: int, value: float) -> str:
        """Take in a trial's newest point, which its curve already has; why it should end, or empty."""

    def ended(self, curve: Curve) -> None:  # noqa: B027  # most rules need not know
        """A trial with this curve has ended, or was stopped. It may be gone on with at a higher fidelity."""

    def _curve(self, row: Row, number: int) -> Curve:
        known = self._curves.get(number)
        if known is None:
            known = self._curves.get(row.params.get(CHECKPOINT_OF, 0)) or Curve()
            self._curves[number] = known
        return known

    def _shown(self, value: float) -> str:
        """A value as the user knows it: of a minimised objective its own sign."""
        turned = objective_values(self._objectives, {self._objectives[0].metric: value})
        return f"{turned[0]:.6g}"
