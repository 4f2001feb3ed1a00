"""What does not run yet, and what never will, is told in words."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from support.cluster import (
    BUCKET,
    ENV_FAKE_GPUS,
    Experiment,
    Installation,
    assert_whole,
    get,
    kubectl,
    prepared,
    run,
    spec,
    until,
)

from archsearch.spec import names

Maker = Callable[[str], Experiment]


def test_third_worker_waits_for_a_gpu(experiment: Maker, installation: Installation) -> None:
    fake = os.environ.get(ENV_FAKE_GPUS)
    if not fake:
        pytest.skip(f"{ENV_FAKE_GPUS} is not set: a command that lets the node advertise N GPUs")
    run([*shlex.split(fake), "2"])
    try:
        resources = {"requests": {"cpu": "50m", "memory": "200Mi"}, "limits": {"nvidia.com/gpu": 1}}
        search = experiment("gpus").apply(
            spec(
                budget={"maxTrials": 24},
                parallelTrials=3,
                trials={"template": {"resources": resources}},
                evaluator={"python": "e2e_space:fit", "config": {"steps": 8, "pause": 0.25}},
            )
        )
        waiting = until(
            "the third worker waits", lambda: search.search().get("waiting"), seconds=120, explain=search.explain
        )
        assert waiting["reason"] == "Unschedulable"
        assert "Insufficient nvidia.com/gpu" in waiting["message"]
        assert "1 of 3" in waiting["message"]
        phases = sorted(pod["status"]["phase"] for pod in search.pods(names.COMPONENT_TRIAL))
        assert phases == ["Pending", "Running", "Running"]
        search.until_condition("Succeeded", seconds=180)
        assert_whole(search, installation, 24)
    finally:
        run([*shlex.split(fake), "0"])


def test_same_name_in_two_namespaces(installation: Installation) -> None:
    pair = [
        Experiment(prepared(installation), "twin").apply(spec(budget={"maxTrials": 4}, seed=seed)) for seed in (1, 2)
    ]
    for search in pair:
        search.until_condition("Succeeded", seconds=240)
        assert_whole(search, installation, 4)
    assert pair[0].prefix() != pair[1].prefix()


def _secret(namespace: str, name: str, keys: dict[str, str]) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": keys,
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(document))


def _storage(installation: Installation, bucket: str, secret: str) -> dict[str, Any]:
    endpoint = f"http://{installation.devstore}.{installation.namespace}.svc:8333"
    return {"uri": f"s3://{bucket}", "endpoint": endpoint, "secretName": secret}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no-bucket", ["no-such-bucket"]),
        ("wrong-key", [BUCKET]),
        ("no-module", ["e2e_missing"]),
        ("no-class", ["e2e_space", "Nett"]),
        ("bad-template", ["spec.trials.template", "tolerations"]),
        ("bad-option", ["spec.strategy.config", "population"]),
    ],
)
def test_bad_manifest_is_refused_in_words(
    name: str, told: list[str], experiment: Maker, installation: Installation, namespace: str
) -> None:
    keys = installation.keys()
    _secret(namespace, "good", keys)
    _secret(namespace, "bad", {**keys, "AWS_SECRET_ACCESS_KEY": "not-the-secret-key-of-this-store-000000"})
    source = {"configMapName": "code"}
    changes: dict[str, dict[str, Any]] = {
        "no-bucket": {"storage": _storage(installation, "no-such-bucket", "good")},
        "wrong-key": {"storage": _storage(installation, BUCKET, "bad")},
        "no-module": {"modelSpace": {"python": {"class": "e2e_missing:Net", "inputShape": [4], "source": source}}},
        "no-class": {"modelSpace": {"python": {"class": "e2e_space:Nett", "inputShape": [4], "source": source}}},
        "bad-template": {"trials": {"template": {"tolerations": [{"key": "gpu", "operator": "Sometimes"}]}}},
        "bad-option": {"strategy": {"name": "regularized-evolution", "config": {"population": -3}}},
    }
    search = experiment(name).apply(spec(**changes[name]))
    condition = search.until_condition("Accepted", "False", seconds=120)
    assert condition["reason"] == "SpecInvalid"
    for text in told:
        assert text in condition["message"]
    assert "Traceback" not in condition["message"]
    until(
        "its pods are gone",
        lambda: not list(search.pods(names.COMPONENT_TRIAL)),
        seconds=60,
        explain=search.explain,
    )
    jobs = get("jobs", namespace, "-l", f"{names.LABEL_EXPERIMENT}={name}")["items"]
    assert all((job["status"].get("failed") or 0) == 0 for job in jobs), "a refusal is no crash"


def test_operator_never_logs_a_traceback(experiment: Maker, installation: Installation) -> None:
    search = experiment("unknown-strategy").apply(spec(strategy={"name": "no-such-strategy"}))
    search.until_condition("Accepted", "False", seconds=120)
    told = kubectl("-n", installation.namespace, "logs", installation.operator_pod())
    assert told
    assert "Traceback" not in told
