"""What learning curves bring beside metrics: architecture weights, bounded in memory, and alarms."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archsearch.protocol import MetricPoint
    from archsearch_strategies.driver.rows import Row

POINTS_KEPT = 1000  # of a trial
NUMBERS_KEPT = 2**18  # architecture weights of all trials
ALARMS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Alarm:
    """A trial said that its search goes wrong."""

    number: int
    step: int
    message: str


class Curves:
    """Puts points into rows; keeps the newest architecture weights and the newest alarms. The ledger has all."""

    def __init__(self) -> None:
        self.alarms: deque[Alarm] = deque(maxlen=ALARMS_KEPT)
        self.alarmed = 0  # alarms ever
        self._weighted: deque[tuple[Row, MetricPoint]] = deque()
        self._numbers = 0

    def take(self, row: Row, points: list[MetricPoint]) -> None:
        """Points of a trial came in."""
        row.points = (row.points + points)[-POINTS_KEPT:]
        for point in points:
            if point.weights:
                self._weighted.append((row, point))
                self._numbers += _numbers(point)
            if point.alarm:
                self._alarm(Alarm(row.number or 0, point.step, point.alarm))
        while self._numbers > NUMBERS_KEPT:
            self._forget(*self._weighted.popleft())

    def _alarm(self, alarm: Alarm) -> None:
        """A trial that went back to a checkpoint tells the same again."""
        if all((alarm.number, alarm.step) != (each.number, each.step) for each in self.alarms):
            self.alarms.append(alarm)
            self.alarmed += 1

    def _forget(self, row: Row, point: MetricPoint) -> None:
        self._numbers -= _numbers(point)
        without = point.model_copy(update={"weights": None})
        row.points = [without if each is point else each for each in row.points]


def _numbers(point: MetricPoint) -> int:
    return sum(len(values) for values in (point.weights or {}).values())
