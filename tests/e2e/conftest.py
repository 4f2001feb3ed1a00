"""Fixtures of the end-to-end tests: images built, chart installed with its development store, namespaces to work in."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cluster import (
    ENV_IMAGE_COMMAND,
    REPOSITORY,
    Experiment,
    Installation,
    build_images,
    helm,
    kubectl,
    prepared,
)

NAMESPACES = 20  # more than there are tests
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
HOW_TO = (
    "the end-to-end tests need a cluster that runs pods: KUBECONFIG, kubectl and helm in PATH, and "
    f"{ENV_IMAGE_COMMAND} (called as COMMAND NAME:TAG CONTEXT DOCKERFILE; builds an image and loads it). "
    f"With Docker and kind: make kind; KUBECONFIG=$PWD/.kind/kubeconfig {ENV_IMAGE_COMMAND}=hack/kind-image make e2e. "
    "Tests that need only an API server: make integration with the binaries of envtest in KUBEBUILDER_ASSETS."
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def cluster() -> None:
    """Skips, or in continuous integration fails, where there is no cluster."""
    missing = [variable for variable in ("KUBECONFIG", ENV_IMAGE_COMMAND) if not os.environ.get(variable)]
    missing += [program for program in ("kubectl", "helm") if shutil.which(program) is None]
    if missing:
        told = f"{', '.join(missing)} not there: {HOW_TO}"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)


@pytest.fixture(scope="session")
def installation(cluster: None) -> Iterator[Installation]:
    """The chart in a namespace of its own. Its operator serves this session's namespaces alone: it may share a
    cluster with others."""
    tags = build_images()
    session = uuid.uuid4().hex[:6]
    release, home = f"e2e-{session}", f"archsearch-e2e-{session}"
    served = [f"e2e-{session}-{index}" for index in range(NAMESPACES)]
    try:
        for namespace in (home, *served):
            _make_namespace(namespace)
        values = {
            "operator": {"image": {"tag": tags["archsearch-operator"]}},
            "trial": {"image": {"tag": tags["archsearch-trial"]}},
            "devStore": {"enabled": True, "image": {"tag": tags["archsearch-devstore"]}},
            "watchNamespaces": served,
        }
        helm(
            *("install", release, str(REPOSITORY / "helm/archsearch"), "--namespace", home, "--take-ownership"),
            *("--set-json", json.dumps(values), "--wait", "--timeout", "180s"),
        )
        yield Installation(release, home, served)
    finally:
        for namespace in served:
            kubectl("-n", namespace, "delete", "nasx", "--all", "--wait=false", check=False)
        kubectl("delete", "namespace", *served, "--ignore-not-found", "--timeout=120s", check=False)
        helm("uninstall", release, "--namespace", home, "--ignore-not-found", "--wait")
        kubectl("delete", "namespace", home, "--ignore-not-found", "--timeout=120s", check=False)


def _make_namespace(name: str) -> None:
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
    kubectl("create", "-f", "-", stdin=json.dumps(document))


@pytest.fixture
def namespace(installation: Installation) -> str:
    """A namespace that no other test uses, with the tests' model code in the ConfigMap `code`."""
    return prepared(installation)


@pytest.fixture
def experiment(namespace: str) -> Iterator[Callable[[str], Experiment]]:
    """Makes handles of experiments in the test's namespace; all are deleted after it."""
    yield lambda name: Experiment(namespace, name)
    kubectl("-n", namespace, "delete", "nasx", "--all", "--wait=false", check=False)
