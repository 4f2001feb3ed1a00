"""What a worker's pod tells: why it does not run yet, and how it ended. Pure functions of the pod's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from archsearch.protocol import FailureClass
from archsearch.spec import names, reasons
from archsearch.spec.base import JsonObject
from archsearch_strategies.launch.base import Waiting
from archsearch_strategies.launch.manifests import CONTAINER

_IMAGE_REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
_STARTING = {"ContainerCreating", "PodInitializing", ""}
_NODE_GONE = {"DeletionByPodGC", "DeletionByTaintManager"}
_KILLED = 137
_LOG_CHARACTERS = 1000


@dataclass(frozen=True)
class Ending:
    """How a pod ended that did not end well."""

    failure: FailureClass
    message: str
    refused: bool = False


def job_of(pod: JsonObject) -> str:
    """Name of the Job that a pod belongs to."""
    labels = pod["metadata"].get("labels") or {}
    return str(labels.get("batch.kubernetes.io/job-name") or labels.get("job-name") or "")


def waiting(pod: JsonObject) -> Waiting | None:
    """Why a pod is not running, or None where it runs, has ended, or is just being started."""
    status = pod.get("status") or {}
    if status.get("phase") not in {None, "Pending"}:
        return None
    name = pod["metadata"]["name"]
    scheduled = condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        text = scheduled.get("message") or scheduled.get("reason") or "no node was found"
        gated = scheduled.get("reason") == "SchedulingGated"
        reason = reasons.QUOTA_PENDING if gated else reasons.UNSCHEDULABLE
        return Waiting(reason, f"the pod {name} has no node: {text}")
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        state = (container.get("state") or {}).get("waiting") or {}
        why = str(state.get("reason", ""))
        detail = f"{why}: {state['message']}" if state.get("message") else why
        if why in _IMAGE_REASONS:
            return Waiting(
                reasons.IMAGE_UNAVAILABLE, f"the pod {name} cannot get its image {container.get('image')}: {detail}"
            )
        if why not in _STARTING:
            return Waiting(reasons.POD_NOT_STARTING, f"the pod {name} does not start: {detail}")
    return None


def lost_touch(pod: JsonObject) -> bool:
    """The container runs as far as anybody knows, but its node stopped telling."""
    status = pod.get("status") or {}
    running = any("running" in (each.get("state") or {}) for each in status.get("containerStatuses", []))
    return status.get("phase") == "Running" and running and condition(status, "Ready").get("status") == "False"


def terminating(pod: JsonObject) -> bool:
    """The pod was told to go and has not gone."""
    phase = (pod.get("status") or {}).get("phase")
    return bool(pod["metadata"].get("deletionTimestamp")) and phase not in {"Failed", "Succeeded"}


def ending(pod: JsonObject) -> Ending | None:
    """How a pod ended, or None where it goes on or ended well."""
    status = pod.get("status") or {}
    terminated = _terminated(status)
    if status.get("phase") != "Failed" and terminated.get("exitCode", 0) == 0:
        return None
    name, node = pod["metadata"]["name"], (pod.get("spec") or {}).get("nodeName", "")
    where = f"the pod {name}" + (f" on {node}" if node else "")
    code = terminated.get("exitCode")
    disruption = condition(status, "DisruptionTarget")
    if code == names.EXIT_REFUSED:
        return Ending(FailureClass.INFRASTRUCTURE, _with_log(f"{where} can never serve", terminated), refused=True)
    if disruption.get("status") == "True":
        gone = disruption.get("reason") in _NODE_GONE
        failure = FailureClass.INFRASTRUCTURE if gone else FailureClass.PREEMPTED
        return Ending(failure, f"{where} was taken away ({disruption.get('reason')}): {disruption.get('message', '')}")
    if terminated.get("reason") == "OOMKilled":
        remedy = "raise spec.trials.template.resources.limits.memory or make trials smaller"
        return Ending(FailureClass.OUT_OF_MEMORY, f"{where} ran out of memory; {remedy}")
    if status.get("reason") in {"Evicted", "Preempting", "Shutdown", "Terminated", "NodeShutdown"}:
        return Ending(FailureClass.PREEMPTED, f"{where} was evicted: {status.get('message', status['reason'])}")
    if status.get("reason") == "NodeLost":
        return Ending(FailureClass.INFRASTRUCTURE, f"{where} was lost with its node")
    told = bool(pod["metadata"].get("deletionTimestamp"))
    if code == names.EXIT_TERMINATED or (code == _KILLED and told):
        return Ending(FailureClass.PREEMPTED, f"{where} was told to go")
    text = (
        f"exit code {code}" if code is not None else str(status.get("message") or status.get("reason") or "no reason")
    )
    return Ending(FailureClass.INFRASTRUCTURE, _with_log(f"{where} crashed: {text}", terminated))


def condition(status: JsonObject, kind: str) -> JsonObject:
    """A condition by type; empty where there is none."""
    found = (each for each in status.get("conditions") or [] if each.get("type") == kind)
    return next(found, {})


def _terminated(status: JsonObject) -> JsonObject:
    """The worker's end, or that of an init container which failed."""
    statuses = [
        *(each for each in status.get("containerStatuses", []) if each.get("name") == CONTAINER),
        *status.get("initContainerStatuses", []),
    ]
    ends: list[Any] = [(each.get("state") or {}).get("terminated") for each in statuses]
    return next((end for end in ends if end and end.get("exitCode", 0) != 0), {})


def _with_log(text: str, terminated: JsonObject) -> str:
    log = str(terminated.get("message") or "").strip()[-_LOG_CHARACTERS:]
    return f"{text}; its last words: {log}" if log else text
