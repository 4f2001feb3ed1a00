"""The operator against a real API server. The tests write what a Job's controller and a driver would."""

import base64
import json
import logging
import urllib.request
from typing import Any

import pytest
from support.operators import Cluster

from archsearch.spec import names, reasons

pytestmark = pytest.mark.integration


def driver_says(
    cluster: Cluster, name: str = "digits", *, updated: str = "2099-01-01T00:00:00Z", **search: Any
) -> None:
    body = {"status": {"search": {"updatedTime": updated, **search}}}
    cluster.patch("nasx", name, json.dumps(body), "--subresource=status")


def job_ends(cluster: Cluster, name: str = "digits") -> None:
    """What the Job controller writes when the strategy pod has ended well."""
    moment = "2026-01-01T00:00:00Z"
    started = cluster.get("job", f"{name}-strategy")["metadata"]["creationTimestamp"]
    done = [
        {"type": kind, "status": "True", "lastTransitionTime": moment} for kind in ("SuccessCriteriaMet", "Complete")
    ]
    status = {
        "startTime": started,
        "completionTime": started,
        "succeeded": 1,
        "active": 0,
        "ready": 0,
        "terminating": 0,
        "uncountedTerminatedPods": {},
        "conditions": done,
    }
    cluster.patch("job", f"{name}-strategy", json.dumps({"status": status}), "--subresource=status")


def pod_is_up(cluster: Cluster, name: str = "digits") -> None:
    started = cluster.get("job", f"{name}-strategy")["metadata"]["creationTimestamp"]
    status = {"startTime": started, "active": 1, "ready": 1, "terminating": 0, "uncountedTerminatedPods": {}}
    cluster.patch("job", f"{name}-strategy", json.dumps({"status": status}), "--subresource=status")


def events(cluster: Cluster) -> list[tuple[str, str]]:
    found = cluster.server.get("events", "-n", cluster.namespace)["items"]
    return [(each["type"], each["reason"]) for each in found if each["involvedObject"]["kind"] == "NASExperiment"]


def test_apply_makes_the_children_and_the_first_conditions(cluster: Cluster) -> None:
    cluster.start()
    raw = cluster.experiment()
    uid = raw["metadata"]["uid"]
    cluster.until("the strategy Job", lambda: "digits-strategy" in cluster.names("jobs"))
    assert cluster.names("services") == {"digits-strategy"}
    assert cluster.names("roles") == cluster.names("rolebindings") == {"digits-strategy"}
    assert "digits-strategy" in cluster.names("serviceaccounts")
    assert cluster.names("networkpolicies") == {"digits-strategy", "digits-trial"}
    token, storage = names.token_secret("digits", uid), names.storage_secret("digits", uid)
    assert {token, storage} <= cluster.names("secrets")
    copied = cluster.get("secret", storage)["data"]
    assert base64.b64decode(copied["AWS_SECRET_ACCESS_KEY"]) == b"default-secret-value"
    assert len(base64.b64decode(cluster.get("secret", token)["data"]["token"])) >= 32

    cluster.until_condition("Running", "False", reasons.STARTING)
    status = cluster.get("nasx", "digits")["status"]
    assert [each["type"] for each in status["conditions"]] == [
        "Accepted",
        "Running",
        "Suspended",
        "Succeeded",
        "Failed",
    ]
    assert all(each["observedGeneration"] == 1 for each in status["conditions"])
    assert status["storageUri"] == f"s3://shared/prefix/{cluster.namespace}/digits/{uid}"
    assert status["state"] == "Pending"
    raw = cluster.get("nasx", "digits")
    assert "finalizers" not in raw["metadata"]
    assert "annotations" not in raw["metadata"] or not any("kopf" in key for key in raw["metadata"]["annotations"])
    assert "default-secret-value" not in json.dumps(cluster.server.get("jobs,nasx,events", "-n", cluster.namespace))


def test_the_verdict_becomes_conditions_and_events(cluster: Cluster) -> None:
    cluster.start()
    cluster.experiment()
    cluster.until("the strategy Job", lambda: "digits-strategy" in cluster.names("jobs"))
    pod_is_up(cluster)
    driver_says(
        cluster,
        verdict={"accepted": True, "state": "Running"},
        trials={"running": 2},
        waiting={"reason": reasons.UNSCHEDULABLE, "message": "0/1 nodes have a GPU"},
        failures={"userError": 2},
        alarms=[{"number": 1, "step": 30, "message": "the cell collapses"}],
    )
    cluster.until_condition("Running", "True", reasons.SEARCHING)
    cluster.until_condition("Accepted", "True", reasons.ACCEPTED)
    driver_says(
        cluster,
        waiting=None,
        verdict={"accepted": True, "state": "Succeeded", "reason": "GoalReached", "message": "0.99"},
    )
    cluster.until("Finishing", lambda: cluster.get("nasx", "digits")["status"]["state"] == "Finishing")
    job_ends(cluster)
    cluster.until_condition("Succeeded", "True", "GoalReached")
    status = cluster.get("nasx", "digits")["status"]
    assert (status["state"], bool(status["completionTime"])) == ("Succeeded", True)
    assert status["search"]["trials"] == {"running": 2}
    cluster.until("the binding gone", lambda: "digits-strategy" not in cluster.names("rolebindings"))
    told = events(cluster)
    assert {
        ("Normal", "Accepted"),
        ("Warning", reasons.UNSCHEDULABLE),
        ("Warning", "TrialsFailed"),
        ("Warning", reasons.ARCHITECTURE_COLLAPSE),
        ("Normal", "GoalReached"),
    } <= set(told)
    assert len(told) == len(set(told))


def test_a_restart_changes_nothing(cluster: Cluster) -> None:
    first = cluster.start()
    cluster.experiment()
    cluster.until("the strategy Job", lambda: "digits-strategy" in cluster.names("jobs"))
    pod_is_up(cluster)
    driver_says(cluster, verdict={"accepted": True, "state": "Running"})
    cluster.until_condition("Running", "True", reasons.SEARCHING)
    before = (
        cluster.get("nasx", "digits"),
        cluster.get("job", "digits-strategy"),
        sorted(cluster.names("secrets")),
        events(cluster),
    )
    first.stop()
    second = cluster.start()
    cluster.until("the second operator at work", lambda: second.operator.health.unready() == "")
    # Something that is reconciled after everything else shows that the second one has been through.
    cluster.experiment("later")
    cluster.until("the other Job", lambda: "later-strategy" in cluster.names("jobs"))
    after = cluster.get("nasx", "digits"), cluster.get("job", "digits-strategy")
    assert after[0]["status"] == before[0]["status"]
    assert after[0]["metadata"]["resourceVersion"] == before[0]["metadata"]["resourceVersion"]
    assert after[1]["metadata"]["uid"] == before[1]["metadata"]["uid"]
    assert [name for name in sorted(cluster.names("secrets")) if name.startswith("digits")] == before[2]


def test_what_happens_while_no_operator_runs_is_caught_up_with(cluster: Cluster) -> None:
    first = cluster.start()
    cluster.experiment()
    cluster.until("the strategy Job", lambda: "digits-strategy" in cluster.names("jobs"))
    first.stop()
    driver_says(
        cluster, verdict={"accepted": True, "state": "Failed", "reason": "TooManyFailedTrials", "message": "6 failed"}
    )
    job_ends(cluster)
    cluster.experiment("new")
    cluster.start()
    cluster.until_condition("Failed", "True", reasons.TOO_MANY_FAILED_TRIALS)
    cluster.until("the new experiment's Job", lambda: "new-strategy" in cluster.names("jobs"))


def test_an_experiment_goes_at_once_while_the_operator_is_down(cluster: Cluster) -> None:
    running = cluster.start()
    cluster.experiment()
    cluster.until("the strategy Job", lambda: "digits-strategy" in cluster.names("jobs"))
    running.stop()
    cluster.kubectl("delete", "nasx", "digits", "--timeout=20s")
    assert cluster.names("nasx") == set()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"retention": {"onDelete": "Delete"}}, ["spec.retention.onDelete", "Retain"]),
        ({"driver": {"resources": {"limits": {"memory": "lots"}}}}, ["spec.driver", "lots"]),
    ],
)
def test_what_the_schema_lets_through_is_refused_in_words(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, spec: dict[str, Any], words: list[str]
) -> None:
    with caplog.at_level(logging.INFO):
        cluster.start()
        cluster.experiment(**spec)
        cluster.until_condition("Accepted", "False", reasons.SPEC_INVALID)
    message = cluster.get("nasx", "digits")["status"]["conditions"][0]["message"]
    assert all(word in message for word in words), message
    assert cluster.conditions()["Failed"] == ("True", reasons.SPEC_INVALID)
    assert "digits-strategy" not in cluster.names("jobs")
    assert ("Warning", reasons.SPEC_INVALID) in events(cluster)
    assert "Traceback" not in caplog.text


def test_without_any_storage_the_remedy_is_told(cluster: Cluster) -> None:
    cluster.start(storage_uri="", storage_secret_dir="")
    cluster.experiment()
    cluster.until_condition("Failed", "True", reasons.SPEC_INVALID)
    message = cluster.get("nasx", "digits")["status"]["conditions"][0]["message"]
    assert "spec.storage.uri" in message
    assert "devStore.enabled" in message


def test_suspend_takes_the_job_down_and_resume_brings_it_back(cluster: Cluster) -> None:
    cluster.start()
    cluster.experiment()
    cluster.until("the strategy Job", lambda: "digits-strategy" in cluster.names("jobs"))
    pod_is_up(cluster)
    driver_says(cluster, verdict={"accepted": True, "state": "Running"})
    cluster.until_condition("Running", "True", reasons.SEARCHING)
    cluster.patch("nasx", "digits", '{"spec":{"suspend":true}}')
    cluster.until("Suspending", lambda: cluster.get("nasx", "digits")["status"]["state"] == "Suspending")
    assert cluster.get("job", "digits-strategy")["spec"]["suspend"] is False
    driver_says(cluster, verdict={"accepted": True, "state": "Suspended"})
    cluster.until_condition("Suspended", "True", reasons.SUSPENDED)
    cluster.until("the Job suspended", lambda: cluster.get("job", "digits-strategy")["spec"]["suspend"] is True)
    cluster.patch("nasx", "digits", '{"spec":{"suspend":false}}')
    cluster.until("the Job resumed", lambda: cluster.get("job", "digits-strategy")["spec"]["suspend"] is False)
    cluster.until_condition("Suspended", "False", reasons.NOT_SUSPENDED)


def test_a_deleted_job_and_a_changed_driver_make_a_new_one(cluster: Cluster) -> None:
    cluster.start()
    cluster.experiment()
    cluster.until("the strategy Job", lambda: "digits-strategy" in cluster.names("jobs"))
    first = cluster.get("job", "digits-strategy")["metadata"]["uid"]
    cluster.kubectl("delete", "job", "digits-strategy", "--cascade=background")

    def other_than(uid: str) -> str:
        found = cluster.names("jobs") and cluster.get("job", "digits-strategy")["metadata"]["uid"]
        return found if found and found != uid else ""

    second = cluster.until("a new Job", lambda: other_than(first))
    cluster.patch("nasx", "digits", '{"spec":{"driver":{"image":"mine:2"}}}')
    cluster.until("a Job of the new image", lambda: other_than(second))
    job = cluster.get("job", "digits-strategy")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "mine:2"


def test_a_finished_experiment_is_deleted_when_its_time_is_over(cluster: Cluster) -> None:
    cluster.start()
    cluster.experiment(ttlSecondsAfterFinished=1)
    cluster.until("the strategy Job", lambda: "digits-strategy" in cluster.names("jobs"))
    driver_says(cluster, verdict={"accepted": True, "state": "Succeeded", "reason": "SearchFinished"})
    job_ends(cluster)
    cluster.until("the experiment gone", lambda: cluster.names("nasx") == set())


def test_two_experiments_of_one_name_do_not_see_each_other(cluster: Cluster, crd_server: Any, tmp_path: Any) -> None:
    other = Cluster(crd_server, tmp_path / "storage")
    cluster.start(watch_namespaces=(cluster.namespace, other.namespace))
    cluster.experiment()
    other.experiment()
    for each in (cluster, other):
        cluster.until("the strategy Job", lambda each=each: "digits-strategy" in each.names("jobs"))
    driver_says(other, verdict={"accepted": False, "state": "Failed", "reason": "SpecInvalid", "message": "no"})
    job_ends(other)
    other.until_condition("Failed", "True", reasons.SPEC_INVALID)
    assert cluster.conditions()["Failed"] == ("False", reasons.IN_PROGRESS)
    assert cluster.get("nasx", "digits")["status"]["storageUri"] != other.get("nasx", "digits")["status"]["storageUri"]


def test_a_second_operator_stays_idle_until_the_first_one_goes(cluster: Cluster) -> None:
    first = cluster.start()
    cluster.until("the first one ready", lambda: first.operator.health.unready() == "")
    second = cluster.start()
    cluster.experiment()
    cluster.until("the strategy Job", lambda: "digits-strategy" in cluster.names("jobs"))
    assert second.operator.health.unready() == "another operator holds the Lease"
    first.stop()
    cluster.until("the second one ready", lambda: second.operator.health.unready() == "")


def test_metrics_tell_of_requests_and_experiments(cluster: Cluster) -> None:
    running = cluster.start()
    cluster.experiment()
    cluster.until_condition("Running", "False", reasons.STARTING)
    with urllib.request.urlopen(f"http://127.0.0.1:{running.operator.server.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    assert 'archsearch_operator_experiments{state="Pending"} 1.0' in text
    assert 'archsearch_operator_api_requests_total{code="201",verb="create"}' in text
    assert "archsearch_operator_lease_held 1.0" in text
    assert 'archsearch_operator_watch_events_total{resource="jobs"}' in text
