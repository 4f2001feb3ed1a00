"""Reading raw objects: the driver's words, a Job's end, a pod's trouble. Tolerant: a newer driver may say more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from archsearch.spec import names, reasons
from archsearch.spec.base import JsonObject

MESSAGE_LIMIT = 1024
TERMINAL = ("Succeeded", "Failed")
_PULL_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
_SECRET_MISSING = re.compile(r'(secret|configmap) "([^"]+)" not found')


@dataclass(frozen=True)
class Trouble:
    """Why something that should run does not: one of archsearch.spec.reasons, and the words of whoever knows."""

    reason: str
    message: str


@dataclass(frozen=True)
class Alarm:
    """What a trial warned of."""

    number: int
    step: int
    message: str

    @property
    def identity(self) -> str:
        return f"alarm/{self.number}/{self.step}"


@dataclass(frozen=True)
class Search:
    """The driver's part of the status."""

    accepted: bool | None = None
    state: str = ""
    reason: str = ""
    message: str = ""
    waiting: Trouble | None = None
    running: int = 0
    failures: tuple[tuple[str, int], ...] = ()
    alarms: tuple[Alarm, ...] = ()
    updated: float = 0.0

    @property
    def over(self) -> bool:
        """The driver has said its last word."""
        return self.state in TERMINAL or self.accepted is False


def clip(text: str, limit: int = MESSAGE_LIMIT) -> str:
    text = text.strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def epoch(timestamp: Any) -> float:
    """Seconds since 1970 of an RFC 3339 time; 0.0 for none or what is none."""
    try:
        parsed = datetime.fromisoformat(timestamp)
    except (TypeError, ValueError):
        return 0.0
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_search(raw: JsonObject) -> Search:
    """The driver's part of a raw experiment; empty where it has not spoken."""
    found = (raw.get("status") or {}).get("search") or {}
    verdict, waiting = found.get("verdict") or {}, found.get("waiting") or {}
    accepted = verdict.get("accepted")
    return Search(
        accepted=accepted if isinstance(accepted, bool) else None,
        state=str(verdict.get("state") or ""),
        reason=str(verdict.get("reason") or ""),
        message=clip(str(verdict.get("message") or "")),
        waiting=Trouble(str(waiting["reason"]), clip(str(waiting.get("message") or "")))
        if waiting.get("reason")
        else None,
        running=int((found.get("trials") or {}).get("running") or 0),
        alarms=tuple(
            Alarm(int(each.get("number", 0)), int(each.get("step", 0)), str(each.get("message", "")))
            for each in found.get("alarms") or ()
        ),
        failures=tuple(sorted((str(k), int(v)) for k, v in (found.get("failures") or {}).items() if v)),
        updated=epoch(found.get("updatedTime")),
    )


def job_end(job: JsonObject | None) -> Literal["", "Complete", "Failed"]:
    """How a Job ended, from its conditions alone; empty while it may still run a pod."""
    for condition in ((job or {}).get("status") or {}).get("conditions") or []:
        if condition.get("status") == "True":
            if condition.get("type") == "Complete":
                return "Complete"
            if condition.get("type") == "Failed":
                return "Failed"
    return ""


def job_suspended(job: JsonObject) -> bool:
    return bool(job["spec"].get("suspend"))


def job_ready(job: JsonObject | None) -> bool:
    """A strategy pod is up."""
    return bool(((job or {}).get("status") or {}).get("ready"))


def job_created(job: JsonObject) -> float:
    return epoch(job["metadata"].get("creationTimestamp"))


def pod_trouble(pods: Sequence[JsonObject]) -> Trouble | None:
    """Why the newest strategy pod is not up, as far as the pod itself tells."""
    living = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    for pod in sorted(living, key=lambda each: epoch(each["metadata"].get("creationTimestamp")), reverse=True):
        status = pod.get("status") or {}
        trouble = _container_trouble(status) or _scheduling_trouble(status)
        if trouble:
            return trouble
        if status.get("phase") in ("Pending", "Running"):
            return None
    return None


def _container_trouble(status: JsonObject) -> Trouble | None:
    for container in status.get("containerStatuses") or []:
        state, last = container.get("state") or {}, container.get("lastState") or {}
        waiting = state.get("waiting") or {}
        if waiting.get("reason") in _PULL_REASONS:
            image = container.get("image", "")
            return Trouble(
                reasons.IMAGE_UNAVAILABLE,
                clip(f"strategy image {image}: {waiting.get('message') or waiting['reason']}"),
            )
        ended = state.get("terminated") or (last.get("terminated") if "running" not in state else None)
        if ended and ended.get("exitCode") != 0:
            return Trouble(reasons.STRATEGY_CRASHED, _crash(ended))
        if waiting.get("reason") in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            return Trouble(
                reasons.STRATEGY_CRASHED, clip(f"the strategy container does not start: {waiting.get('message', '')}")
            )
    return None


def _crash(ended: JsonObject) -> str:
    """The last lines matter most: they are the exception."""
    text = str(ended.get("message") or "").strip()
    kept = text if len(text) <= 700 else "…" + text[-699:]
    return f"the strategy pod ended with exit code {ended.get('exitCode')} ({ended.get('reason', 'Error')})" + (
        f": {kept}" if kept else ""
    )


def _scheduling_trouble(status: JsonObject) -> Trouble | None:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return Trouble(
                reasons.UNSCHEDULABLE, clip(f"the strategy pod: {condition.get('message') or condition.get('reason')}")
            )
    return None


def event_trouble(events: Sequence[JsonObject]) -> Trouble | None:
    """Why there is no pod, or none that starts, as far as only Events tell: quotas, pod security, missing Secrets."""
    warnings = [event for event in events if event.get("type") == "Warning"]
    if not warnings:
        return None
    newest = max(warnings, key=_event_time)
    message = clip(str(newest.get("message") or ""))
    if newest.get("reason") == "FailedCreate":
        quota = "exceeded quota" in message or "must specify" in message
        return Trouble(reasons.QUOTA_PENDING if quota else reasons.STARTING, f"the strategy pod is refused: {message}")
    missing = _SECRET_MISSING.search(message)
    if missing:
        kind = "Secret" if missing[1] == "secret" else "ConfigMap"
        return Trouble(
            reasons.STORE_UNAVAILABLE,
            f"the {kind} {missing[2]!r} is not in the experiment's namespace: make it, and the strategy pod starts",
        )
    return None


def _event_time(event: JsonObject) -> float:
    return max(epoch(event.get(field)) for field in ("lastTimestamp", "eventTime", "firstTimestamp"))


def labelled(component: str) -> str:
    """The label selector of every experiment's objects of one component."""
    return f"{names.LABEL_COMPONENT}={component}"
