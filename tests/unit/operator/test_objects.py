"""The children of an experiment."""

import dataclasses
import json
from typing import Any

import kubernetes_validate
import pytest

from archsearch.spec import names
from archsearch.spec.experiment import Storage
from archsearch.spec.wiring import DriverSettings
from archsearch_operator import objects
from archsearch_operator.policies import network_policies, store_egress
from archsearch_operator.settings import Settings

VERSION = "1.30"


def children(experiment: objects.Experiment, settings: Settings) -> list[dict[str, Any]]:
    return [
        objects.service_account(experiment),
        objects.role(experiment),
        objects.role_binding(experiment),
        objects.service(experiment),
        objects.token_secret(experiment, "t" * 32),
        objects.storage_secret(experiment, {"AWS_ACCESS_KEY_ID": "id"}),
        objects.strategy_job(experiment, settings),
        *network_policies(experiment),
    ]


def test_every_child_is_what_kubernetes_knows_and_belongs_to_the_experiment(
    experiment: objects.Experiment, settings: Settings
) -> None:
    for child in children(experiment, settings):
        kubernetes_validate.validate(child, VERSION, strict=True)
        meta = child["metadata"]
        (owner,) = meta["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (experiment.uid, True)
        assert meta["namespace"] == "team"
        assert meta["labels"][names.LABEL_EXPERIMENT] == "digits"
        assert not any(meta.get(field) for field in ("finalizers", "generateName"))


def test_the_longest_name_fits_every_childs_name_and_label(experiment: objects.Experiment, settings: Settings) -> None:
    long = dataclasses.replace(experiment, name="n" * names.NAME_MAX)
    for child in children(long, settings):
        assert len(child["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in child["metadata"]["labels"].values())


def test_the_same_inputs_give_the_same_bytes(experiment: objects.Experiment, settings: Settings) -> None:
    first, second = (json.dumps(children(experiment, settings)) for _ in range(2))
    assert first == second


def test_the_strategy_pod_is_restricted_and_holds_no_secret_in_its_environment(
    experiment: objects.Experiment, settings: Settings
) -> None:
    pod = objects.strategy_job(experiment, settings)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [variable["name"] for variable in container["env"]] == [names.ENV_DRIVER_SETTINGS]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts[names.PATH_TOKEN]
    assert mounts[names.PATH_STORAGE_SECRET]
    assert mounts["/tmp"] is False
    assert [path for path, read_only in mounts.items() if not read_only] == ["/tmp"]


def test_the_driver_is_told_all_that_is_not_in_the_experiment(
    experiment: objects.Experiment, settings: Settings
) -> None:
    (container,) = objects.strategy_job(experiment, settings)["spec"]["template"]["spec"]["containers"]
    told = DriverSettings.model_validate_json(container["env"][0]["value"])
    assert (told.experiment, told.namespace, told.uid) == ("digits", "team", experiment.uid)
    assert told.trial_image == "trial:1"
    assert told.storage == Storage(uri="s3://bucket/prefix", secret_name="keys")
    assert told.token_secret == objects.token_secret(experiment, "x")["metadata"]["name"]
    assert told.service == objects.service(experiment)["metadata"]["name"]


def test_the_strategy_job_has_no_failure_policy_and_replaces_its_pod_at_once(
    experiment: objects.Experiment, settings: Settings
) -> None:
    spec = objects.strategy_job(experiment, settings)["spec"]
    assert "podFailurePolicy" not in spec
    assert "ttlSecondsAfterFinished" not in spec
    assert spec["podReplacementPolicy"] == "TerminatingOrFailed"
    assert spec["backoffLimit"] > 100_000


def test_the_users_driver_fields_are_taken_through(experiment: objects.Experiment, settings: Settings) -> None:
    driver = experiment.spec.driver.model_copy(
        update={
            "image": "mine:2",
            "resources": {"limits": {"memory": "8Gi"}},
            "node_selector": {"pool": "cpu"},
            "tolerations": [{"operator": "Exists"}],
            "image_pull_secrets": [{"name": "registry"}],
            "service_account_annotations": {"eks.amazonaws.com/role-arn": "arn"},
        }
    )
    changed = dataclasses.replace(experiment, spec=experiment.spec.model_copy(update={"driver": driver}))
    pod = objects.strategy_job(changed, settings)["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "mine:2"
    assert pod["containers"][0]["resources"] == {"limits": {"memory": "8Gi"}}
    assert (pod["nodeSelector"], pod["tolerations"]) == ({"pool": "cpu"}, [{"operator": "Exists"}])
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert objects.service_account(changed)["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn"}
    assert objects.driver_hash(changed.spec) != objects.driver_hash(experiment.spec)
    assert objects.budget_hash(changed.spec) == objects.budget_hash(experiment.spec)


def test_two_experiments_of_one_name_share_no_secret(experiment: objects.Experiment) -> None:
    again = dataclasses.replace(experiment, uid="99999999-0000-4000-8000-000000000002")
    assert (
        objects.token_secret(experiment, "x")["metadata"]["name"]
        != objects.token_secret(again, "x")["metadata"]["name"]
    )


def test_the_service_is_headless_and_publishes_pods_that_are_not_ready(experiment: objects.Experiment) -> None:
    spec = objects.service(experiment)["spec"]
    assert spec["clusterIP"] == "None"
    assert spec["publishNotReadyAddresses"] is True


def test_a_strategy_pod_may_touch_jobs_and_its_own_experiment_alone(experiment: objects.Experiment) -> None:
    rules = {resource: rule for rule in objects.role(experiment)["rules"] for resource in rule["resources"]}
    assert set(rules) == {"jobs", "pods", "nasexperiments", "nasexperiments/status"}
    assert rules["pods"]["verbs"] == ["get", "list"]
    assert rules["nasexperiments"]["resourceNames"] == ["digits"]
    assert rules["nasexperiments"]["verbs"] == ["get", "watch"]
    assert rules["nasexperiments/status"]["verbs"] == ["patch"]
    assert rules["nasexperiments/status"]["resourceNames"] == ["digits"]
    assert not any("*" in rule["verbs"] + rule["resources"] for rule in rules.values())


def test_trial_pods_reach_one_another_dns_the_driver_and_the_store(experiment: objects.Experiment) -> None:
    _, trial = network_policies(experiment)
    assert trial["spec"]["podSelector"]["matchLabels"][names.LABEL_COMPONENT] == names.COMPONENT_TRIAL
    ports = [port["port"] for rule in trial["spec"]["egress"] for port in rule.get("ports", [])]
    assert 6443 not in ports
    assert names.LEASE_PORT in ports


@pytest.mark.parametrize(
    ("endpoint", "rule"),
    [
        (
            "http://store.system.svc:8333",
            {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "system"}}}]},
        ),
        (
            "http://10.1.2.3:9000",
            {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"protocol": "TCP", "port": 9000}]},
        ),
        ("https://minio.example.org", {"ports": [{"protocol": "TCP", "port": 443}]}),
        ("", {"ports": [{"protocol": "TCP", "port": 443}]}),
    ],
)
def test_the_way_to_the_store_is_as_narrow_as_a_policy_can_say(endpoint: str, rule: dict[str, Any]) -> None:
    assert store_egress(Storage(uri="s3://b", endpoint=endpoint)) == rule
