"""Pods, the operator and the API server go away during a run: it finishes, and nothing is lost or counted twice."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable

import pytest
from support.cluster import (
    ENV_KUBE_RESTART,
    Experiment,
    Installation,
    assert_whole,
    get,
    kubectl,
    run,
    spec,
    until,
)

from archsearch.spec import names

Maker = Callable[[str], Experiment]


def delete_pod(experiment: Experiment, component: str) -> None:
    name = until(f"a {component} pod runs", lambda: experiment.live_pod(component), explain=experiment.explain)
    kubectl("-n", experiment.namespace, "delete", "pod", name, "--wait=false")


def test_pods_are_deleted(experiment: Maker, installation: Installation) -> None:
    search = experiment("disturbed").apply(spec(budget={"maxTrials": 24}))
    search.until_trials(2)
    delete_pod(search, names.COMPONENT_STRATEGY)
    search.until_trials(7)
    delete_pod(search, names.COMPONENT_TRIAL)
    search.until_trials(12)
    kubectl("-n", installation.namespace, "delete", "pod", installation.operator_pod(), "--wait=false")
    search.until_condition("Succeeded", seconds=300)
    assert_whole(search, installation, 24)
    failures = search.search().get("failures") or {}
    assert set(failures) <= {"preempted"}, "what a person deletes is no failure"


def test_api_server_is_restarted(experiment: Maker, installation: Installation) -> None:
    restart = os.environ.get(ENV_KUBE_RESTART)
    if not restart:
        pytest.skip(f"{ENV_KUBE_RESTART} is not set: a command that restarts a component of the cluster")
    search = experiment("outage").apply(spec(budget={"maxTrials": 16}))
    search.until_trials(3)
    run([*shlex.split(restart), "apiserver"], timeout=120)
    search.until_condition("Succeeded", seconds=300)
    assert_whole(search, installation, 16)


def test_second_driver_fences_the_first(experiment: Maker, installation: Installation) -> None:
    search = experiment("fenced").apply(spec(budget={"maxTrials": 30}))
    search.until_trials(3)
    first = search.live_pod(names.COMPONENT_STRATEGY)
    pod = get("pod", search.namespace, first)
    second = {
        "apiVersion": "v1",
        "kind": "Pod",
        # Labels as the first one's: workers resolve the Service to both, and whoever is fenced leaves.
        "metadata": {
            "name": "by-hand",
            "namespace": search.namespace,
            "labels": {
                key: value for key, value in pod["metadata"]["labels"].items() if key.startswith(f"{names.GROUP}/")
            },
        },
        "spec": {**pod["spec"], "restartPolicy": "Never", "nodeName": None},
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(second))

    def fenced() -> bool:
        told = kubectl("-n", search.namespace, "logs", first, check=False)
        told += kubectl("-n", search.namespace, "logs", "--previous", first, check=False)
        return "another driver has taken over" in told

    until("the first driver left", fenced, explain=search.explain)
    search.until_condition("Succeeded", seconds=300)
    assert_whole(search, installation, 30)


def test_suspend_and_resume(experiment: Maker, installation: Installation) -> None:
    search = experiment("paused").apply(spec(budget={"maxTrials": 20}))
    search.until_trials(3)
    search.patch({"suspend": True})
    search.until_condition("Suspended", seconds=90)
    until(
        "no trial pod runs",
        lambda: not search.pods(names.COMPONENT_TRIAL),
        seconds=60,
        explain=search.explain,
    )
    done = search.trials()
    assert done < 20
    search.patch({"suspend": False})
    search.until_condition("Succeeded", seconds=240)
    assert search.condition("Suspended")["status"] == "False"
    assert_whole(search, installation, 20)
