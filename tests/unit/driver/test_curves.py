"""Architecture weights and alarms in the table of trials."""

from __future__ import annotations

import pytest

from archsearch.protocol import MetricPoint, TrialKind
from archsearch.spec.experiment import Objective
from archsearch_strategies.driver import curves
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.trials import TrialTable


@pytest.fixture
def table() -> TrialTable:
    found = TrialTable([Objective(metric="accuracy")])
    for number in (1, 2):
        found.apply(r.Submitted(number=number, kind=TrialKind.SUPERNET))
    return found


def report(table: TrialTable, number: int, step: int, alarm: str | None = None, numbers: int = 4) -> None:
    point = MetricPoint(step=step, metrics={"loss": float(step)}, weights={"c": [0.25] * numbers}, alarm=alarm)
    record = r.Reported(number=number, points=[point])
    table.apply(r.parse(record.to_json()))  # as a reader of the ledger does


def test_only_the_newest_points_keep_their_weights(table: TrialTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "NUMBERS_KEPT", 12)
    for step in range(4):
        for number in (1, 2):
            report(table, number, step)
    assert [point.step for point in table.rows[1].points] == [0, 1, 2, 3]
    assert [point.step for point in table.rows[1].points if point.weights] == [3]
    assert [point.step for point in table.rows[2].points if point.weights] == [2, 3]


def test_the_newest_alarms_are_kept_and_none_twice(table: TrialTable) -> None:
    report(table, 1, 7, "the cell collapses")
    report(table, 1, 7, "the cell collapses")  # again, after a lost worker
    report(table, 2, 7)
    assert [(each.number, each.step, each.message) for each in table.curves.alarms] == [(1, 7, "the cell collapses")]
    for step in range(30):
        report(table, 2, step, "once more")
    assert [each.step for each in table.curves.alarms] == list(range(10, 30))
    assert table.curves.alarmed == 31


def test_a_point_without_either_is_as_small_as_ever() -> None:
    assert MetricPoint(step=1, metrics={"loss": 0.5}).to_json() == {"step": 1, "metrics": {"loss": 0.5}}
