"""The stopping rules alone: fed with points and results, asked for reasons."""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest

from archsearch.protocol import MetricPoint, TrialKind, TrialState
from archsearch.space import Rng
from archsearch.spec.experiment import Goal, Objective, StoppingName, StoppingSpec
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.stopping import StoppingRule, make_rule
from archsearch_strategies.stopping.base import POINTS_KEPT, Curve

ACCURACY = [Objective(metric="accuracy")]
LOSS = [Objective(metric="loss", goal=Goal.MINIMIZE)]


def rule(name: str, objectives: list[Objective] = ACCURACY, **config: Any) -> StoppingRule:
    made = make_rule(StoppingSpec(name=StoppingName(name), config=config), objectives)
    assert made is not None
    return made


def trial(number: int, **more: Any) -> Row:
    return Row(number, TrialKind.EVALUATE, **more)


def feed(watching: StoppingRule, row: Row, values: list[float], metric: str = "accuracy", first: int = 0) -> str:
    """One report an epoch; the first reason to stop, with which the trial then ends."""
    for step, value in enumerate(values, first):
        watching.reported(row, [MetricPoint(step=step, metrics={metric: value})])
        if reason := watching.reason(row):
            end(watching, row, TrialState.PRUNED)
            return reason
    end(watching, row)
    return ""


def end(watching: StoppingRule, row: Row, state: TrialState = TrialState.SUCCEEDED) -> None:
    row.state = state
    watching.finished(row)


def test_no_rule_is_none() -> None:
    assert make_rule(None, ACCURACY) is None


def test_median_is_that_of_running_averages_of_ended_trials() -> None:
    rng = Rng("curves")
    watching = rule("median", grace=3, minTrials=4)
    ended: list[list[float]] = []
    stops = 0
    for number in range(1, 60):
        values = [rng.random() + 0.05 * step for step in range(10)]
        seen: list[float] = []
        row = trial(number)
        for step, value in enumerate(values):
            seen.append(value)
            watching.reported(row, [MetricPoint(step=step, metrics={"accuracy": value})])
            averages = [sum(each[: step + 1]) / (step + 1) for each in ended if len(each) > step]
            expected = step + 1 >= 3 and len(averages) >= 4 and max(seen) < median(averages)
            assert bool(watching.reason(row)) is expected
            if expected:
                stops += 1
                break
        ended.append(seen)
        end(watching, row, TrialState.PRUNED if len(seen) < 10 else TrialState.SUCCEEDED)
    assert 2 < stops < 50


def test_median_waits_for_enough_trials_and_the_grace() -> None:
    watching = rule("median", grace=3, minTrials=2)
    assert feed(watching, trial(1), [0.5] * 5) == ""
    assert feed(watching, trial(2), [0.1] * 5) == ""
    row = trial(3)
    reason = feed(watching, row, [0.0] * 5)
    assert reason == ("stopped after 3 steps: the best so far, 0, is worse than 0.3, the median of 2 trials' averages")
    assert feed(watching, trial(4), [0.0, 0.9, 0.0, 0.0, 0.0]) == ""  # its best is what counts


def test_a_minimised_objective_turns_round() -> None:
    watching = rule("median", LOSS, minTrials=1)
    assert feed(watching, trial(1), [2.0, 1.0], "loss") == ""
    reason = feed(watching, trial(2), [3.0], "loss")
    assert "the best so far, 3, is worse than 2," in reason
    assert feed(watching, trial(3), [0.5, 0.4], "loss") == ""
    watching = rule("asha", LOSS, reduction=2)
    assert feed(watching, trial(1), [1.0], "loss") == ""
    assert "2 is not among the best 1 of 2 trials there (1 are better)" in feed(watching, trial(2), [2.0], "loss")


def test_asha_lets_the_best_part_of_each_rung_go_on() -> None:
    rng = Rng("rungs")
    watching = rule("asha", grace=2, reduction=3)
    rungs: dict[int, list[float]] = {2: [], 6: [], 18: []}
    stops = 0
    for number in range(1, 80):
        row = trial(number)
        for step in range(20):
            value = rng.random() + 0.02 * step
            watching.reported(row, [MetricPoint(step=step, metrics={"accuracy": value})])
            expected = False
            if step + 1 in rungs:
                known = rungs[step + 1]
                known.append(value)
                places = len(known) // 3
                expected = places > 0 and sorted(known)[-places] > value
            assert bool(watching.reason(row)) is expected
            if expected:
                stops += 1
                break
    assert 30 < stops < 79
    assert rungs[18]


def test_asha_looks_at_a_rung_that_was_passed_over() -> None:
    watching = rule("asha", grace=4, reduction=2)
    watching.reported(trial(1), [MetricPoint(step=9, metrics={"accuracy": 0.9})])
    row = trial(2)
    watching.reported(row, [MetricPoint(step=2, metrics={"accuracy": 0.1})])
    assert watching.reason(row) == ""
    watching.reported(row, [MetricPoint(step=5, metrics={"accuracy": 0.1})])
    assert "stopped at 4 steps" in watching.reason(row)


@pytest.mark.parametrize("name", ["asha", "median"])
def test_what_has_not_the_objective_is_passed_over(name: str) -> None:
    watching = rule(name)
    row = trial(1)
    watching.reported(row, [MetricPoint(step=0, metrics={"loss": 1.0})])
    watching.finished(row)
    assert watching.reason(row) == ""


@pytest.mark.parametrize("kind", [TrialKind.RETRAIN, TrialKind.SUPERNET])
def test_only_trials_of_the_search_are_watched(kind: TrialKind) -> None:
    watching = rule("asha", reduction=2)
    feed(watching, trial(1), [0.9])
    row = Row(2, kind)
    watching.reported(row, [MetricPoint(step=0, metrics={"accuracy": 0.0})])
    assert watching.reason(row) == ""


def test_a_reason_is_that_of_the_newest_report_alone() -> None:
    watching = rule("asha", reduction=2)
    feed(watching, trial(1), [0.9])
    bad, good = trial(2), trial(3)
    watching.reported(bad, [MetricPoint(step=0, metrics={"accuracy": 0.1})])
    assert watching.reason(bad)
    watching.reported(good, [MetricPoint(step=0, metrics={"accuracy": 0.95})])
    assert not watching.reason(bad) and not watching.reason(good)


def test_a_promoted_trial_goes_on_with_its_curve() -> None:
    watching = rule("median", minTrials=1, grace=1)
    feed(watching, trial(1), [0.8, 0.9])
    promoted = trial(2, params={"fidelity": 4, "resumedFidelity": 2, "checkpointOf": 1})
    assert feed(watching, promoted, [0.1, 0.1], first=2) == ""  # its best came before
    watching.reported(row := trial(3), [MetricPoint(step=3, metrics={"accuracy": 0.4})])
    assert "worse than 0.475, the median of 1 trials' averages" in watching.reason(row)


def test_what_a_lost_worker_had_reported_is_not_counted_twice() -> None:
    curve = Curve()
    assert [curve.put(units, value) for units, value in ((1, 1.0), (2, 2.0), (2, 9.0), (1, 9.0), (3, 3.0))] == [
        True, True, False, False, True,
    ]  # fmt: skip
    assert (curve.best, curve.average(2), curve.average(3)) == (3.0, 1.5, 2.0)


def test_a_long_curve_is_thinned_and_its_averages_stay_true() -> None:
    curve = Curve()
    for units in range(1, 3 * POINTS_KEPT):
        curve.put(units, float(units))
    assert len(curve.units) <= POINTS_KEPT
    for units in curve.units[:: len(curve.units) // 7]:
        assert curve.average(units) == pytest.approx((units + 1) / 2)
    assert curve.units[-1] == 3 * POINTS_KEPT - 1
