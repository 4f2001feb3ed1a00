"""Kubernetes Events of an experiment: one for each transition and alarm, and one for each class of failure.

Their names follow from what they tell, so that a step done twice (a crash between two writes) tells it once.
"""

from __future__ import annotations

import hashlib

from archsearch.spec import names, reasons
from archsearch.spec.base import JsonObject
from archsearch_operator.objects import MANAGED_BY
from archsearch_operator.observe import Alarm, clip, timestamp

NORMAL, WARNING = "Normal", "Warning"
REASON_TRIALS_FAILED = "TrialsFailed"
_WAITING = frozenset(
    {
        reasons.IMAGE_UNAVAILABLE,
        reasons.QUOTA_PENDING,
        reasons.UNSCHEDULABLE,
        reasons.STORE_UNAVAILABLE,
        reasons.STRATEGY_CRASHED,
    }
)


def transition_event(raw: JsonObject, condition: JsonObject, old: JsonObject, now: float) -> JsonObject | None:
    """The Event of a condition that changed, or None where there is nothing worth telling."""
    kind = _kind(condition, old)
    if kind is None:
        return None
    text = condition["message"] or ("resumed" if condition["type"] == "Suspended" else condition["reason"])
    told: tuple[str, ...] = (
        condition["type"],
        condition["status"],
        condition["reason"],
        old.get("lastTransitionTime", ""),
        old.get("reason", ""),
    )
    if condition["status"] == old.get("status") and condition["reason"] == old.get("reason"):
        told = (*told, text)
    reason = _waits(condition["message"]) or condition["reason"]
    return event(raw, kind, reason, text, told="/".join(told), now=now)


def _kind(condition: JsonObject, old: JsonObject) -> str | None:
    status, reason = condition["status"], condition["reason"]
    flipped = status != old.get("status")
    anew = flipped or reason != old.get("reason")
    match condition["type"]:
        case "Accepted":
            # A refusal shows as Failed as well; one Event is enough.
            return NORMAL if flipped and status == "True" else None
        case "Running":
            waits = _waits(condition["message"])
            if waits and waits != _waits(old.get("message", "")):
                return WARNING
            if anew and reason in _WAITING:
                return WARNING
            return NORMAL if flipped and status == "True" else None
        case "Suspended":
            if not flipped:
                return None
            return NORMAL if status == "True" or old.get("status") == "True" else None
        case "Succeeded":
            return NORMAL if flipped and status == "True" else None
        case "Failed":
            return WARNING if anew and status == "True" else None
    return None


def _waits(message: str) -> str:
    """The reason in "some trials wait (REASON): …", or nothing."""
    if not message.startswith("some trials wait ("):
        return ""
    return message.removeprefix("some trials wait (").partition(")")[0]


def failure_event(raw: JsonObject, failure_class: str, count: int, now: float) -> JsonObject:
    """The Event of one class of failed attempts; the same object counts up."""
    attempts = "attempt" if count == 1 else "attempts"
    text = f"{count} failed {attempts} ({failure_class}); archsearch trials shows each with its last lines"
    made = event(raw, WARNING, REASON_TRIALS_FAILED, text, told=f"failures/{failure_class}", now=now)
    return made | {"count": count}


def alarm_event(raw: JsonObject, alarm: Alarm, now: float) -> JsonObject:
    """The Event of a trial's warning: one for each."""
    text = f"trial {alarm.number}, step {alarm.step}: {alarm.message}"
    return event(raw, WARNING, reasons.ARCHITECTURE_COLLAPSE, text, told=alarm.identity, now=now)


def event(raw: JsonObject, kind: str, reason: str, message: str, *, told: str, now: float) -> JsonObject:
    meta = raw["metadata"]
    identity = hashlib.sha256(f"{meta['uid']}/{told}".encode()).hexdigest()[:16]
    moment = timestamp(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name'][:200]}.{identity}", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        },
        "type": kind,
        "reason": reason,
        "message": clip(message),
        "source": {"component": MANAGED_BY},
        "reportingComponent": MANAGED_BY,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
