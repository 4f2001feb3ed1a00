"""Whether a success is one: it has every metric that the experiment needs, and keeps the constraints."""

from __future__ import annotations

from collections.abc import Sequence

from archsearch.protocol import FailureClass, Outcome, TrialKind, TrialState
from archsearch.spec.experiment import Constraint, Objective
from archsearch_strategies.driver.rows import CANDIDATES, Row


def judged(row: Row, outcome: Outcome, objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> Outcome:
    """A worker's success as it counts.

    Without the metric of an objective or a constraint it is a failure of the class bad metric. Outside a constraint, of
    which training or user code told only now, it is infeasible: never among the best, and for the strategy no result.
    A retrained architecture was chosen already, and its constraints are not asked again.
    """
    if row.kind not in CANDIDATES | {TrialKind.RETRAIN}:
        return outcome
    kept = constraints if row.kind in CANDIDATES else ()
    wanted = {each.metric: "constraint" for each in kept} | {each.metric: "objective" for each in objectives}
    for metric, what in wanted.items():
        if metric not in outcome.metrics:
            reported = ", ".join(sorted(outcome.metrics)) or "none"
            message = f"the trial did not report the {what} {metric}; it reported: {reported}"
            failure = FailureClass.BAD_METRIC
            return outcome.model_copy(update={"state": TrialState.FAILED, "failure": failure, "message": message})
    for constraint in kept:
        value = outcome.metrics[constraint.metric]
        if not within(constraint, value):
            message = f"{constraint.metric} is {value:g}, outside {bounds(constraint)}"
            return outcome.model_copy(update={"state": TrialState.INFEASIBLE, "message": message})
    return outcome


def within(constraint: Constraint, value: float) -> bool:
    """Whether a value keeps a constraint; the bounds themselves do."""
    low, high = constraint.min, constraint.max
    return (low is None or value >= float(low)) and (high is None or value <= float(high))


def bounds(constraint: Constraint) -> str:
    """min 3, max 5"""
    given = {"min": constraint.min, "max": constraint.max}
    return ", ".join(f"{name} {bound}" for name, bound in given.items() if bound is not None)
