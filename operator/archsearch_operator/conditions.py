"""Conditions and state of an experiment, derived anew each time; nothing is remembered but transition times."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from archsearch.spec import reasons
from archsearch.spec.base import JsonObject
from archsearch_operator.observe import Search, Trouble, clip

TYPES = ("Accepted", "Running", "Suspended", "Succeeded", "Failed")


class Phase(StrEnum):
    """Where an experiment stands: the `state` column."""

    PENDING = "Pending"  # the strategy pod is not up, or has not spoken
    RUNNING = "Running"
    FINISHING = "Finishing"  # the verdict is there, the strategy pod is not gone yet
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def over(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED)


@dataclass(frozen=True)
class View:
    """All that conditions are made from."""

    phase: Phase
    search: Search
    invalid: str = ""  # why the operator refuses the spec
    failure: Trouble | None = None  # why it failed, where the driver did not say
    trouble: Trouble | None = None  # why the strategy pod is not up


def conditions(view: View, generation: int, previous: list[JsonObject], now: str) -> list[JsonObject]:
    """All five, in order; `lastTransitionTime` moves only when a status flips."""
    before = {condition.get("type"): condition for condition in previous}
    made = []
    for kind, (status, reason, message) in zip(
        TYPES, (_accepted(view), _running(view), _suspended(view), _succeeded(view), _failed(view)), strict=True
    ):
        old = before.get(kind) or {}
        since = old.get("lastTransitionTime") if old.get("status") == status else None
        made.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": clip(message),
                "observedGeneration": generation,
                "lastTransitionTime": since or now,
            }
        )
    return made


Row = tuple[str, str, str]


def _accepted(view: View) -> Row:
    if view.invalid:
        return "False", reasons.SPEC_INVALID, view.invalid
    if view.search.accepted is False:
        return "False", view.search.reason or reasons.SPEC_INVALID, view.search.message
    if view.search.accepted or view.phase is Phase.SUCCEEDED:
        return "True", reasons.ACCEPTED, "the search may run"
    return (
        "Unknown",
        reasons.PENDING_VALIDATION,
        "the driver has not checked strategy, evaluator, objectives and space yet",
    )


def _running(view: View) -> Row:
    search = view.search
    if view.phase.over:
        return "False", reasons.FINISHED, "the search is over"
    if view.phase is Phase.SUSPENDED:
        return "False", reasons.SUSPENDED, "the search is suspended"
    if view.trouble:
        return "False", view.trouble.reason, view.trouble.message
    if view.phase is Phase.FINISHING:
        return "True", reasons.SEARCHING, "the search is over; its strategy pod is about to end"
    if view.phase is Phase.PENDING:
        return "False", reasons.STARTING, "the strategy pod is starting"
    if search.waiting and not search.running:
        return "False", search.waiting.reason, search.waiting.message
    if search.waiting:
        # Some trials run, others wait: the condition is true, and says what the others wait for.
        return "True", reasons.SEARCHING, f"some trials wait ({search.waiting.reason}): {search.waiting.message}"
    return "True", reasons.SEARCHING, "the search is running"


def _suspended(view: View) -> Row:
    if view.phase is Phase.SUSPENDED:
        return "True", reasons.SUSPENDED, "suspended: nothing runs until spec.suspend is false"
    if view.phase is Phase.SUSPENDING:
        return "False", reasons.NOT_SUSPENDED, "spec.suspend is true: running trials checkpoint and end"
    return "False", reasons.NOT_SUSPENDED, ""


def _succeeded(view: View) -> Row:
    if view.phase is Phase.SUCCEEDED:
        return "True", view.search.reason or reasons.SEARCH_FINISHED, view.search.message
    if view.phase is Phase.FAILED:
        return "False", _failure(view).reason, "the experiment failed"
    return "False", reasons.IN_PROGRESS, ""


def _failed(view: View) -> Row:
    if view.phase is Phase.FAILED:
        failure = _failure(view)
        return "True", failure.reason, failure.message
    if view.phase is Phase.SUCCEEDED:
        return "False", view.search.reason or reasons.SEARCH_FINISHED, ""
    return "False", reasons.IN_PROGRESS, ""


def _failure(view: View) -> Trouble:
    if view.invalid:
        return Trouble(reasons.SPEC_INVALID, view.invalid)
    if view.failure:
        return view.failure
    default = reasons.SPEC_INVALID if view.search.accepted is False else reasons.STRATEGY_ERROR
    return Trouble(view.search.reason or default, view.search.message)
