"""An experiment as the API server would hold it, and what goes with it."""

import copy
from typing import Any

import pytest

from archsearch_operator import objects
from archsearch_operator.reconcile import understand
from archsearch_operator.settings import Settings

UID = "0f1e2d3c-0000-4000-8000-000000000001"
RAW: dict[str, Any] = {
    "apiVersion": "archsearch.dev/v1alpha1",
    "kind": "NASExperiment",
    "metadata": {
        "name": "digits",
        "namespace": "team",
        "uid": UID,
        "generation": 1,
        "resourceVersion": "10",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {
        "objectives": [{"metric": "accuracy"}],
        "modelSpace": {"zoo": {"name": "nasbench201"}},
        "strategy": {"name": "random"},
        "evaluator": {"name": "classification"},
        "budget": {"maxTrials": 20},
        "storage": {"uri": "s3://bucket/prefix", "secretName": "keys"},
    },
}


@pytest.fixture
def raw() -> dict[str, Any]:
    return copy.deepcopy(RAW)


@pytest.fixture
def settings() -> Settings:
    return Settings(trial_image="trial:1")


@pytest.fixture
def experiment(raw: dict[str, Any], settings: Settings) -> objects.Experiment:
    found, problems = understand(raw, settings)
    assert problems == ()
    assert found is not None
    return found
