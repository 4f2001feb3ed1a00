"""What a pod, its Events and the driver say."""

from typing import Any

import pytest

from archsearch.spec import reasons
from archsearch_operator.observe import epoch, event_trouble, pod_trouble, read_search, timestamp


def pod(
    created: str = "2026-01-01T00:00:00Z", *, deleting: bool = False, phase: str = "Pending", **status: Any
) -> dict[str, Any]:
    meta = {"creationTimestamp": created} | ({"deletionTimestamp": created} if deleting else {})
    return {"metadata": meta, "status": {"phase": phase, **status}}


def container(**fields: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"image": "trial:1", **fields}]}


def test_an_image_that_cannot_be_pulled() -> None:
    trouble = pod_trouble([pod(**container(state={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}))])
    assert trouble is not None
    assert trouble.reason == reasons.IMAGE_UNAVAILABLE
    assert "trial:1" in trouble.message


def test_a_crash_shows_the_last_lines_and_the_code() -> None:
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": "x" * 2000 + "\nValueError: the cause"}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    trouble = pod_trouble([pod(phase="Running", **container(state=waiting, lastState=ended))])
    assert trouble is not None
    assert trouble.reason == reasons.STRATEGY_CRASHED
    assert trouble.message.endswith("ValueError: the cause")
    assert "exit code 1" in trouble.message
    assert len(trouble.message) < 1024


def test_a_restarted_container_that_runs_is_no_trouble() -> None:
    ended = {"terminated": {"exitCode": 1}}
    assert pod_trouble([pod(phase="Running", **container(state={"running": {}}, lastState=ended))]) is None


def test_no_node_has_room() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    trouble = pod_trouble([pod(conditions=[condition])])
    assert trouble is not None
    assert (trouble.reason, "0/1 nodes" in trouble.message) == (reasons.UNSCHEDULABLE, True)


def test_a_pod_that_is_being_deleted_and_an_older_one_do_not_count() -> None:
    crashed = container(state={"terminated": {"exitCode": 143}})
    assert pod_trouble([pod(deleting=True, **crashed)]) is None
    healthy = pod("2026-01-01T00:05:00Z", phase="Running", **container(state={"running": {}}))
    assert pod_trouble([pod(phase="Failed", **crashed), healthy]) is None


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        ("FailedCreate", 'pods "x" is forbidden: exceeded quota: q', reasons.QUOTA_PENDING),
        ("FailedCreate", 'pods "x" is forbidden: violates PodSecurity', reasons.STARTING),
        ("FailedMount", 'MountVolume.SetUp failed: secret "keys" not found', reasons.STORE_UNAVAILABLE),
    ],
)
def test_what_only_events_tell(reason: str, message: str, expected: str) -> None:
    old = {"type": "Warning", "reason": "FailedMount", "message": "old", "lastTimestamp": "2026-01-01T00:00:00Z"}
    new = {"type": "Warning", "reason": reason, "message": message, "lastTimestamp": "2026-01-01T00:00:09Z"}
    trouble = event_trouble([new, old])
    assert trouble is not None
    assert trouble.reason == expected
    assert event_trouble([]) is None
    assert event_trouble([{"type": "Normal", "reason": "Pulled", "message": "ok"}]) is None


def test_times_go_there_and_back() -> None:
    assert timestamp(epoch("2026-01-01T00:00:10Z")) == "2026-01-01T00:00:10Z"
    assert epoch("2026-01-01T00:00:10.250000+00:00") == epoch("2026-01-01T00:00:10Z") + 0.25
    assert epoch(None) == epoch("soon") == 0.0


def test_an_experiment_whose_driver_has_not_spoken() -> None:
    search = read_search({"metadata": {}})
    assert (search.accepted, search.state, search.waiting, search.over) == (None, "", None, False)
