"""From apply to answer: the example of the quickstart in real pods with a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.cluster import REPOSITORY, Experiment, Installation, get, kubectl, trial_records, until

import archsearch
from archsearch.spec import names

CHILDREN = "jobs,pods,secrets,services,serviceaccounts,roles,rolebindings"


@pytest.fixture(scope="module")
def digits(installation: Installation) -> Experiment:
    """The example, applied as it is and waited for."""
    experiment = Experiment(installation.fresh_namespace(), "digits")
    kubectl("-n", experiment.namespace, "apply", "-f", str(REPOSITORY / "examples/digits.yaml"))
    experiment.until_condition("Succeeded", seconds=420)
    return experiment


def test_status_tells_the_answer(digits: Experiment) -> None:
    status = digits.raw()["status"]
    assert status["state"] == "Succeeded"
    assert digits.condition("Accepted")["status"] == "True"
    assert digits.condition("Succeeded")["reason"] == "MaxTrialsReached"
    best = status["search"]["best"]
    assert 1 <= len(best) <= 5
    values = [float(each["value"]) for each in best]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.5
    assert best[0]["architecture"]
    assert status["search"]["progress"] == "40/40"
    assert len(json.dumps(status)) < 64 * 1024


def test_kubectl_tells_the_story(digits: Experiment) -> None:
    row = kubectl("-n", digits.namespace, "get", "nasx", "digits")
    assert "Succeeded" in row
    assert "40/40" in row
    assert "regularized-evolution" in row
    described = kubectl("-n", digits.namespace, "describe", "nasx", "digits")
    assert "Succeeded" in described
    assert "Events:" in described
    assert "Trials that run at the same time" in kubectl("explain", "nasx.spec.parallelTrials")


def test_nothing_is_left_running(digits: Experiment) -> None:
    def live() -> list[str]:
        pods = get("pods", digits.namespace)["items"]
        return [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") in {"Running", "Pending"}]

    until("no pod runs", lambda: not live(), seconds=60, explain=digits.explain)
    jobs = get("jobs", digits.namespace, "-l", f"{names.LABEL_COMPONENT}={names.COMPONENT_TRIAL}")["items"]
    assert jobs == []


def test_bucket_holds_the_run_and_the_model_predicts(
    digits: Experiment, installation: Installation, tmp_path: Path
) -> None:
    with installation.bucket(digits.prefix()) as store:
        keys = {each.key for each in store.list("")}
        assert "summary.json" in keys
        assert any(key.startswith("ledger/") for key in keys)
        kept = {key.split("/")[1] for key in keys if key.startswith("trials/") and key.endswith(".safetensors")}
        assert kept, "the weights of the best trials so far are kept"
        assert {"best/architecture.json", "best/model.safetensors", "best/model.pt2", "best/manifest.json"} <= keys
        summary = json.loads(store.get("summary.json"))
        numbers = trial_records(store)
        for key in keys:
            if key.startswith("best/"):
                target = tmp_path / key
                target.parent.mkdir(parents=True, exist_ok=True)
                store.get_file(key, target)
    assert summary["state"] == "Succeeded"
    assert numbers["submitted"] == list(range(1, 41))
    assert sorted(numbers["result"]) == list(range(1, 41))
    model = archsearch.load(str(tmp_path / "best"))
    with torch.no_grad():
        scores = model(torch.zeros(2, 1, 8, 8))
    assert scores.shape == (2, 10)
    assert bool(torch.isfinite(scores).all())


def test_delete_leaves_no_child_and_keeps_the_bucket(digits: Experiment, installation: Installation) -> None:
    prefix = digits.prefix()
    kubectl("-n", digits.namespace, "delete", "nasx", "digits", "--timeout=60s")
    label = f"{names.LABEL_EXPERIMENT}=digits"
    until(
        "no child is left",
        lambda: get(CHILDREN, digits.namespace, "-l", label)["items"] == [],
        seconds=90,
        explain=lambda: kubectl("-n", digits.namespace, "get", CHILDREN),
    )
    with installation.bucket(prefix) as store:
        assert store.exists("summary.json")
