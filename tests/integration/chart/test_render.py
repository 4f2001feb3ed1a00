"""The chart as helm renders it, and what the API server makes of its admission policy."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.apiserver import ApiServer

pytestmark = pytest.mark.integration
CHART = Path(__file__).parents[3] / "helm" / "archsearch"
MONITORING = ("monitoring.coreos.com/v1/PodMonitor", "monitoring.coreos.com/v1/PrometheusRule")
EVERYTHING = ("devStore.enabled=true", "networkPolicy.enabled=true", "monitoring.enabled=true")


@pytest.fixture(scope="module")
def helm() -> str:
    found = shutil.which("helm") or shutil.which("helm", path=os.environ.get("KUBEBUILDER_ASSETS", ""))
    if found:
        return found
    message = "no helm: put it into PATH or KUBEBUILDER_ASSETS"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def run(helm: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm, *arguments], capture_output=True, text=True, timeout=120, check=False)


def render(helm: str, *values: str) -> list[dict[str, Any]]:
    options = [part for value in values for part in ("--set", value)]
    apis = [part for api in MONITORING for part in ("--api-versions", api)]
    done = run(helm, "template", "demo", str(CHART), "--namespace", "system", *options, *apis)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def test_lint(helm: str) -> None:
    done = run(helm, "lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "values", [(), EVERYTHING, ("watchNamespaces={a,b}", "storage.uri=s3://b/p", "storage.secretName=k")]
)
def test_every_object_is_what_kubernetes_knows(helm: str, values: tuple[str, ...]) -> None:
    documents = render(helm, *values)
    for document in documents:
        if document["apiVersion"].startswith("monitoring."):
            continue
        kubernetes_validate.validate(document, "1.30", strict=True)
        labels = document["metadata"].get("labels", {})
        assert document["kind"] == "CustomResourceDefinition" or labels["app.kubernetes.io/part-of"] == "archsearch"


def test_every_pod_is_restricted(helm: str) -> None:
    documents = render(helm, *EVERYTHING)
    pods = [each["spec"]["template"]["spec"] for each in of(documents, "Deployment")] + [
        each["spec"] for each in of(documents, "Pod")
    ]
    assert len(pods) == 3
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]


def test_named_namespaces_get_a_role_each_and_nothing_cluster_wide(helm: str) -> None:
    documents = render(helm, "watchNamespaces={a,b}")
    roles = {
        each["metadata"]["namespace"] for each in of(documents, "Role") if each["metadata"]["name"] == "demo-archsearch"
    }
    assert roles == {"a", "b"}
    assert of(documents, "ClusterRoleBinding") == []
    assert {each["metadata"]["name"] for each in of(documents, "ClusterRole")} == {
        "demo-archsearch-viewer",
        "demo-archsearch-editor",
    }


def test_all_namespaces_get_one_cluster_role(helm: str) -> None:
    documents = render(helm)
    (binding,) = of(documents, "ClusterRoleBinding")
    assert binding["roleRef"]["name"] == "demo-archsearch"
    (role,) = (each for each in of(documents, "ClusterRole") if each["metadata"]["name"] == "demo-archsearch")
    assert "networkpolicies" not in json.dumps(role)
    (deployment,) = of(documents, "Deployment")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


def test_the_definition_is_kept_and_can_be_left_out(helm: str) -> None:
    (crd,) = of(render(helm), "CustomResourceDefinition")
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert of(render(helm, "crds.enabled=false"), "CustomResourceDefinition") == []


def environment(documents: list[dict[str, Any]]) -> dict[str, str]:
    (operator,) = (each for each in of(documents, "Deployment") if each["metadata"]["name"] == "demo-archsearch")
    return {
        each["name"].removeprefix("ARCHSEARCH_OPERATOR_"): each.get("value", "")
        for each in operator["spec"]["template"]["spec"]["containers"][0]["env"]
    }


def test_the_development_store_is_the_default_storage_unless_another_is_named(helm: str) -> None:
    documents = render(helm, "devStore.enabled=true")
    given = environment(documents)
    assert given["STORAGE_URI"] == "s3://archsearch"
    assert given["STORAGE_ENDPOINT"] == "http://demo-archsearch-devstore.system.svc:8333"
    assert given["STORAGE_SECRET_DIR"]
    (secret,) = of(documents, "Secret")
    assert set(secret["data"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    other = environment(render(helm, "devStore.enabled=true", "storage.uri=s3://mine"))
    assert other["STORAGE_URI"] == "s3://mine"
    assert "STORAGE_SECRET_DIR" not in other


def test_monitoring_comes_only_where_it_is_asked_for_and_known(helm: str) -> None:
    assert of(render(helm), "PodMonitor") == []
    documents = render(helm, "monitoring.enabled=true")
    assert len(of(documents, "PodMonitor")) == 2
    (rule,) = of(documents, "PrometheusRule")
    assert rule["spec"]["groups"][0]["rules"]
    (dashboard,) = of(documents, "ConfigMap")
    assert json.loads(dashboard["data"]["archsearch.json"])["panels"]
    done = run(helm, "template", "demo", str(CHART), "--set", "monitoring.enabled=true")
    assert "kind: PodMonitor" not in done.stdout
    assert "grafana_dashboard" in done.stdout


@pytest.mark.parametrize(
    "value",
    [
        "nonsense=1",
        "operator.image.tga=x",
        "storage.uri=bucket",
        "operator.workers=0",
        "trial.image.pullPolicy=Sometimes",
    ],
)
def test_a_wrong_value_is_refused(helm: str, value: str) -> None:
    done = run(helm, "template", "demo", str(CHART), "--set", value)
    assert done.returncode != 0
    assert value.partition("=")[0].split(".")[-1] in done.stderr


def manifest(namespace: str, **spec: Any) -> dict[str, Any]:
    base = {
        "objectives": [{"metric": "accuracy"}],
        "modelSpace": {"zoo": {"name": "nasbench201"}},
        "strategy": {"name": "random", "config": {"population": 1}},
        "evaluator": {"name": "classification"},
    }
    return {
        "apiVersion": "archsearch.dev/v1alpha1",
        "kind": "NASExperiment",
        "metadata": {"name": "fixed", "namespace": namespace},
        "spec": base | spec,
    }


def test_only_what_may_change_may_change(helm: str, crd_server: ApiServer) -> None:
    namespace = crd_server.namespace()
    documents = render(helm, "crds.enabled=false")
    policy = of(documents, "ValidatingAdmissionPolicy") + of(documents, "ValidatingAdmissionPolicyBinding")
    for document in policy:
        document["metadata"]["name"] = document["metadata"]["name"] + "-test"
        if "policyName" in document["spec"]:
            document["spec"]["policyName"] += "-test"
            document["spec"]["matchResources"] = {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
            }
        crd_server.apply(document)
    try:
        crd_server.apply(manifest(namespace))
        deadline = time.monotonic() + 60
        seed = 1
        while (
            crd_server.apply(manifest(namespace, seed=seed), check=False).returncode == 0
        ):  # the policy needs a moment
            assert time.monotonic() < deadline, "the policy does not act"
            seed += 1
            time.sleep(0.5)
        current = {"seed": seed - 1}
        for change, words in (
            ({"seed": 77}, "spec.seed may not change after creation"),
            ({"strategy": {"name": "random", "config": {"sample": 1}}}, "spec.strategy may not change"),
            ({"strategy": {"name": "random"}}, "spec.strategy may not change"),
            ({"storage": {"uri": "s3://other"}}, "spec.storage may not change"),
        ):
            refused = crd_server.apply(manifest(namespace, **(current | change)), check=False)
            assert refused.returncode != 0
            assert words in refused.stderr
        free = {
            "suspend": True,
            "parallelTrials": 3,
            "budget": {"maxTrials": 50},
            "retention": {"checkpoints": 3},
            "ttlSecondsAfterFinished": 9,
            "driver": {"nodeSelector": {"a": "b"}},
        }
        crd_server.apply(manifest(namespace, **(current | free)))
    finally:
        for document in policy:
            crd_server.kubectl("delete", document["kind"], document["metadata"]["name"], "--wait=false", check=False)
        crd_server.kubectl("delete", "namespace", namespace, "--wait=false", check=False)
