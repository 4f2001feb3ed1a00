"""A supernet trial in two pods: they meet, one is taken away in the middle, and the trial ends as one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from support.cluster import Experiment, Installation, get, kubectl, unhurried, until

from archsearch.spec import names
from archsearch_strategies.ledger import read_ledger

INDEX = "batch.kubernetes.io/job-completion-index"


def supernet() -> dict[str, Any]:
    """Forty steps long enough for a pod to be taken away in between, a checkpoint after each."""
    training = {"epochs": 10, "batchSize": 128, "checkpointSteps": 1}
    return {
        "objectives": [{"metric": "accuracy"}],
        "modelSpace": unhurried(0.1, channels=8, cells=1, input_channels=1),
        "strategy": {"name": "gdas", "config": training},
        "evaluator": {
            "name": "classification",
            "config": {"dataset": "digits", "trainSize": 1024, "validationSize": 128, "epochs": 1},
        },
        "retrain": {"topK": 0},
        "trials": {"nodes": 2, "template": {"resources": {"requests": {"cpu": "50m", "memory": "300Mi"}}}},
        "seed": 3,
    }


def ranks(experiment: Experiment) -> dict[str, str]:
    """Running pods of the group by their index."""
    found = {}
    for pod in experiment.pods(names.COMPONENT_TRIAL):
        index = (pod["metadata"].get("annotations") or {}).get(INDEX)
        if index and pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp"):
            found[index] = str(pod["metadata"]["name"])
    return found


def test_two_pods_train_one_supernet(experiment: Callable[[str], Experiment], installation: Installation) -> None:
    search = experiment("nodes").apply(supernet())
    both = until(
        "both pods run", lambda: (found := ranks(search)).keys() == {"0", "1"} and found, explain=search.explain
    )
    (job,) = (
        each for each in get("jobs", search.namespace)["items"] if each["spec"].get("completionMode") == "Indexed"
    )
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (2, 2)
    prefix = search.prefix()
    with installation.bucket(prefix) as store:
        until(
            "a checkpoint is stored",
            lambda: any(each.key.endswith("manifest.json") for each in store.list("trials/1/checkpoints")),
            explain=search.explain,
        )
    kubectl("-n", search.namespace, "delete", "pod", both["1"], "--wait=false")
    search.until_condition("Succeeded", seconds=400)
    with installation.bucket(prefix) as store:
        records = [record for record in read_ledger(store) if record.get("number") == 1]
        summary = json.loads(store.get("summary.json"))
        kept = [each.key for each in store.list("trials/1/weights")]
    leased = [record for record in records if record["type"] == "leased"]
    (result,) = (record for record in records if record["type"] == "result")
    returned = [record for record in records if record["type"] == "returned"]
    assert result["state"] == "succeeded"
    assert result["attempt"] == len(leased) >= 2
    assert {record["failure"] for record in returned} == {"preempted"}, "a pod that a person deletes is no failure"
    assert {record["job"] for record in leased} == {job["metadata"]["name"]}, "its Job replaced the pod"
    steps = [point["step"] for record in records if record["type"] == "reported" for point in record["points"]]
    assert steps == sorted(steps), "what was trained before the pod went was not trained again"
    assert steps[-1] == 9
    assert kept
    assert [each["kind"] for each in summary["best"]] == ["inherit"]

    def groups() -> list[str]:
        return [
            each["metadata"]["name"]
            for each in get("jobs", search.namespace)["items"]
            if each["spec"].get("completionMode") == "Indexed"
        ]

    until("the group is gone", lambda: not groups(), seconds=60, explain=search.explain)
