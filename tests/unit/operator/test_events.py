"""Which transitions are told, and that none is told twice."""

from typing import Any

import pytest

from archsearch.spec import reasons
from archsearch_operator.events import alarm_event, failure_event, transition_event
from archsearch_operator.observe import Alarm

SINCE = "2026-01-01T00:00:00Z"


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": SINCE}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (("Accepted", "Unknown", "PendingValidation"), ("Accepted", "True", "Accepted"), ("Normal", "Accepted")),
        (("Running", "False", "Starting"), ("Running", "True", "Searching"), ("Normal", "Searching")),
        (("Running", "True", "Searching"), ("Running", "False", "Finished"), None),
        (("Running", "False", "Starting"), ("Running", "False", "ImageUnavailable"), ("Warning", "ImageUnavailable")),
        (("Suspended", "False", "NotSuspended"), ("Suspended", "True", "Suspended"), ("Normal", "Suspended")),
        (("Suspended", "True", "Suspended"), ("Suspended", "False", "NotSuspended"), ("Normal", "NotSuspended")),
        (("Succeeded", "False", "InProgress"), ("Succeeded", "True", "GoalReached"), ("Normal", "GoalReached")),
        (("Succeeded", "False", "InProgress"), ("Succeeded", "False", "SpecInvalid"), None),
        (("Failed", "False", "InProgress"), ("Failed", "True", "SpecInvalid"), ("Warning", "SpecInvalid")),
    ],
)
def test_transitions(raw: dict[str, Any], old: Any, new: Any, expected: tuple[str, str] | None) -> None:
    event = transition_event(raw, condition(*new), condition(*old), 0.0)
    assert (event and (event["type"], event["reason"])) == expected


def test_some_trials_that_wait_are_told_by_what_they_wait_for(raw: dict[str, Any]) -> None:
    old = condition("Running", "True", reasons.SEARCHING, "the search is running")
    new = condition("Running", "True", reasons.SEARCHING, "some trials wait (Unschedulable): no GPU is free")
    event = transition_event(raw, new, old, 0.0)
    assert event is not None
    assert (event["type"], event["reason"]) == ("Warning", reasons.UNSCHEDULABLE)
    later = condition("Running", "True", reasons.SEARCHING, "some trials wait (Unschedulable): no GPU is free, still")
    assert transition_event(raw, later, new, 0.0) is None


def test_a_step_that_is_done_twice_makes_one_event_and_another_transition_another(raw: dict[str, Any]) -> None:
    old, new = condition("Suspended", "False", "NotSuspended"), condition("Suspended", "True", "Suspended")
    first, second = transition_event(raw, new, old, 10.0), transition_event(raw, new, old, 99.0)
    assert first is not None
    assert second is not None
    assert first["metadata"]["name"] == second["metadata"]["name"]
    later = transition_event(raw, new, {**old, "lastTransitionTime": "2026-01-02T00:00:00Z"}, 0.0)
    assert later is not None
    assert later["metadata"]["name"] != first["metadata"]["name"]


def test_failures_of_one_class_share_an_event_that_counts(raw: dict[str, Any]) -> None:
    one, three = failure_event(raw, "userError", 1, 0.0), failure_event(raw, "userError", 3, 9.0)
    assert one["metadata"]["name"] == three["metadata"]["name"]
    assert (one["count"], three["count"]) == (1, 3)
    assert one["metadata"]["name"] != failure_event(raw, "timeout", 1, 0.0)["metadata"]["name"]


def test_each_alarm_is_one_warning(raw: dict[str, Any]) -> None:
    first, again = (alarm_event(raw, Alarm(1, 30, "the cell collapses"), now) for now in (0.0, 60.0))
    assert (first["type"], first["reason"]) == ("Warning", "ArchitectureCollapse")
    assert first["message"] == "trial 1, step 30: the cell collapses"
    assert first["metadata"]["name"] == again["metadata"]["name"]
    other = alarm_event(raw, Alarm(2, 30, "the cell collapses"), 0.0)
    assert other["metadata"]["name"] != first["metadata"]["name"]
