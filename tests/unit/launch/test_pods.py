"""What a pod tells: why it waits, how it ended."""

from __future__ import annotations

from typing import Any

import pytest
from support.launch import ended, pod

from archsearch.protocol import FailureClass
from archsearch.spec import reasons
from archsearch_strategies.launch import pods


def not_scheduled(reason: str, message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return pod("j", conditions=[condition])


def held(reason: str, where: str = "containerStatuses") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": "back-off"}}
    return pod("j", **{where: [{"name": "worker", "image": "trial:1", "state": state}]})


@pytest.mark.parametrize(
    ("found", "reason", "text"),
    [
        (not_scheduled("Unschedulable", "Insufficient nvidia.com/gpu"), reasons.UNSCHEDULABLE, "nvidia.com/gpu"),
        (not_scheduled("SchedulingGated", "gated"), reasons.QUOTA_PENDING, "gated"),
        (held("ImagePullBackOff"), reasons.IMAGE_UNAVAILABLE, "trial:1"),
        (held("ErrImageNeverPull", "initContainerStatuses"), reasons.IMAGE_UNAVAILABLE, "trial:1"),
        (held("CreateContainerConfigError"), reasons.POD_NOT_STARTING, "back-off"),
    ],
)
def test_why_a_pod_waits(found: dict[str, Any], reason: str, text: str) -> None:
    waiting = pods.waiting(found)
    assert waiting is not None
    assert waiting.reason == reason
    assert text in waiting.message


@pytest.mark.parametrize("found", [held("PodInitializing"), pod("j"), pod("j", phase="Running")])
def test_a_starting_pod_has_no_trouble(found: dict[str, Any]) -> None:
    assert pods.waiting(found) is None


def disrupted(reason: str) -> dict[str, Any]:
    found = ended("j", 143)
    found["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": reason}]
    return found


def deleted(found: dict[str, Any]) -> dict[str, Any]:
    found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return found


@pytest.mark.parametrize(
    ("found", "failure"),
    [
        (ended("j", 143), FailureClass.PREEMPTED),
        (deleted(ended("j", 137)), FailureClass.PREEMPTED),
        (disrupted("PreemptionByScheduler"), FailureClass.PREEMPTED),
        (disrupted("EvictionByEvictionAPI"), FailureClass.PREEMPTED),
        (disrupted("DeletionByPodGC"), FailureClass.INFRASTRUCTURE),
        (pod("j", phase="Failed", reason="Evicted", message="low on memory"), FailureClass.PREEMPTED),
        (ended("j", 137, reason="OOMKilled"), FailureClass.OUT_OF_MEMORY),
        (ended("j", 137), FailureClass.INFRASTRUCTURE),
        (ended("j", 1), FailureClass.INFRASTRUCTURE),
        (pod("j", phase="Failed", reason="NodeLost"), FailureClass.INFRASTRUCTURE),
    ],
)
def test_how_a_pod_ended(found: dict[str, Any], failure: FailureClass) -> None:
    end = pods.ending(found)
    assert end is not None
    assert end.failure is failure
    assert not end.refused


def test_a_refused_worker_says_so_with_its_last_words() -> None:
    end = pods.ending(ended("j", 78, message="another version"))
    assert end is not None
    assert end.refused
    assert "another version" in end.message


def test_a_crash_tells_code_and_last_words() -> None:
    end = pods.ending(ended("j", 1, message="no module named torch"))
    assert end is not None
    assert "exit code 1" in end.message
    assert "no module named torch" in end.message


def test_a_good_end_is_none() -> None:
    assert pods.ending(pod("j", phase="Succeeded")) is None
    assert pods.ending(pod("j", phase="Running")) is None


def test_out_of_touch_and_terminating() -> None:
    silent = pod(
        "j",
        phase="Running",
        conditions=[{"type": "Ready", "status": "False"}],
        containerStatuses=[{"name": "worker", "state": {"running": {}}}],
    )
    assert pods.lost_touch(silent)
    assert not pods.lost_touch(pod("j", phase="Running", conditions=[{"type": "Ready", "status": "True"}]))
    assert pods.terminating(deleted(pod("j", phase="Running")))
    assert not pods.terminating(deleted(ended("j", 143)))
