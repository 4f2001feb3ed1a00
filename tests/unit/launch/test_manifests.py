"""The Job of a worker: what it must have, what goes through, what is refused."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
from support.launch import SETTINGS, experiment_spec

from archsearch.spec import names
from archsearch_strategies.launch.faults import template_problems
from archsearch_strategies.launch.manifests import lease_url, trial_job, trial_selector


def job(**changes: Any) -> dict[str, Any]:
    return trial_job(experiment_spec(**changes), SETTINGS, name="digits-t1-1", url=lease_url(SETTINGS))


def pod_spec(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = job(**changes)["spec"]["template"]["spec"]
    return spec


def template(**fields: Any) -> dict[str, Any]:
    return {"trials": {"template": fields}}


def test_is_a_valid_job_of_the_experiment() -> None:
    made = job()
    kubernetes_validate.validate(made, "1.31", strict=True)
    assert made == job(), "the same inputs give the same Job"
    assert made["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    labels = made["spec"]["template"]["metadata"]["labels"]
    for requirement in trial_selector(SETTINGS).split(","):
        key, value = requirement.split("=")
        assert labels[key] == made["metadata"]["labels"][key] == value


def test_failure_policy_knows_the_workers_exit_codes() -> None:
    spec = job()["spec"]
    rules = {rule["action"]: rule for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule}
    assert rules["FailJob"]["onExitCodes"]["values"] == [names.EXIT_REFUSED]
    assert rules["Ignore"]["onExitCodes"]["values"] == [names.EXIT_TERMINATED]
    assert any("onPodConditions" in rule for rule in spec["podFailurePolicy"]["rules"])
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["backoffLimit"] > 1000


def test_pod_is_restricted() -> None:
    spec = pod_spec()
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == names.CONTAINER_UID
    for container in [*spec["containers"], *spec["initContainers"]]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_only_the_init_container_sees_secrets() -> None:
    spec = pod_spec()
    secrets = {volume["name"] for volume in spec["volumes"] if "secret" in volume}
    assert len(secrets) == 2
    worker, init = spec["containers"][0], spec["initContainers"][0]
    assert not secrets & {mount["name"] for mount in worker["volumeMounts"]}
    assert secrets <= {mount["name"] for mount in init["volumeMounts"]}
    memory = [volume["name"] for volume in spec["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
    shared = next(mount for mount in worker["volumeMounts"] if mount["mountPath"] == names.PATH_SECRETS)
    assert shared["name"] in memory
    assert not any("secretKeyRef" in str(entry) for entry in worker["env"])
    assert not {entry["name"] for entry in worker["env"]} & set(names.STORAGE_SECRET_KEYS)


def test_template_goes_through() -> None:
    fields: dict[str, Any] = {
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "schedulerName": "mine",
        "imagePullSecrets": [{"name": "pull"}],
        "serviceAccountName": "cloud",
        "resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}],
    }
    spec = pod_spec(**template(**fields, resources={"limits": {"nvidia.com/gpu": 1}}))
    assert {key: spec[key] for key in fields} == fields
    assert spec["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 1}
    mounted = pod_spec(
        **template(volumes=[{"name": "data", "emptyDir": {}}], volumeMounts=[{"name": "data", "mountPath": "/data"}])
    )
    assert {"name": "data", "emptyDir": {}} in mounted["volumes"]
    assert {"name": "data", "mountPath": "/data"} in mounted["containers"][0]["volumeMounts"]


def test_ours_wins_over_the_template() -> None:
    env = [{"name": names.ENV_DRIVER_URL, "value": "http://elsewhere"}, {"name": "MINE", "value": "1"}]
    labels = {names.LABEL_COMPONENT: "strategy", "team": "a"}
    made = job(**template(env=env, labels=labels))
    entries = [e for e in made["spec"]["template"]["spec"]["containers"][0]["env"] if e["name"] == names.ENV_DRIVER_URL]
    assert [entry["value"] for entry in entries] == ["http://digits-strategy.lab.svc:8470"]
    pod_labels = made["spec"]["template"]["metadata"]["labels"]
    assert pod_labels[names.LABEL_COMPONENT] == names.COMPONENT_TRIAL
    assert pod_labels["team"] == "a"


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        ({}, {"cpu": "1"}),
        ({"limits": {"memory": "1Gi"}}, {"memory": "1Gi", "cpu": "1"}),
        ({"requests": {"cpu": "3"}}, None),
        ({"limits": {"nvidia.com/gpu": 1}}, {"nvidia.com/gpu": 1}),
    ],
)
def test_a_trial_that_names_no_cpu_gets_one(resources: dict[str, Any], limits: dict[str, Any] | None) -> None:
    assert pod_spec(**template(resources=resources))["containers"][0]["resources"].get("limits") == limits


@pytest.mark.parametrize(
    ("trials", "flag"),
    [({}, "Auto"), ({"perJob": 7}, "7"), ({"isolation": "Pod"}, "1")],
)
def test_trials_per_job(trials: dict[str, Any], flag: str) -> None:
    arguments = pod_spec(trials=trials)["containers"][0]["args"]
    assert arguments[arguments.index("--per-job") + 1] == flag


def test_code_of_a_config_map_is_mounted() -> None:
    python = {"class": "mine:Net", "inputShape": [4], "source": {"configMapName": "code"}}
    spec = pod_spec(modelSpace={"python": python})
    worker = spec["containers"][0]
    assert {"name": names.ENV_CODE_DIR, "value": names.PATH_CODE} in worker["env"]
    mount = next(mount for mount in worker["volumeMounts"] if mount["mountPath"] == names.PATH_CODE)
    volume = next(volume for volume in spec["volumes"] if volume["name"] == mount["name"])
    assert volume["configMap"] == {"name": "code", "optional": True}
    assert not any(entry["name"] == names.ENV_CODE_DIR for entry in pod_spec()["containers"][0]["env"])


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"volumeMounts": [{"name": "archsearch-token", "mountPath": "/x"}]}, "volumeMounts[0].name"),
        ({"volumes": [{"name": "archsearch-mine"}]}, "volumes[0].name"),
        ({"volumeMounts": [{"name": "x", "mountPath": names.PATH_SECRETS}]}, "volumeMounts[0].mountPath"),
        ({"volumeMounts": [{"name": "x", "mountPath": "/run/archsearch"}]}, "volumeMounts[0].mountPath"),
        ({"volumeMounts": [{"name": "x", "mountPath": "/tmp"}]}, "volumeMounts[0].mountPath"),
        ({"env": [{"name": "ARCHSEARCH_X", "value": "1"}]}, "env[0].name"),
        ({"labels": {"archsearch.dev/experiment": "other"}}, "labels"),
    ],
)
def test_what_is_archsearchs_own_is_refused(fields: dict[str, Any], path: str) -> None:
    problems = template_problems(experiment_spec(**template(**fields)))
    assert [problem.path for problem in problems] == [f"spec.trials.template.{path}"]
    assert problems[0].remedy


def test_an_ordinary_template_has_no_problem() -> None:
    fields = {"volumeMounts": [{"name": "data", "mountPath": "/tmp/data"}], "env": [{"name": "HOME", "value": "/tmp"}]}
    assert template_problems(experiment_spec(**template(**fields))) == []


def test_several_ranks_are_an_indexed_job_whose_pods_know_their_number_and_address() -> None:
    made = trial_job(experiment_spec(), SETTINGS, name="digits-t1-1", url=lease_url(SETTINGS), ranks=3)
    kubernetes_validate.validate(made, "1.31", strict=True)
    spec = made["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    container = spec["template"]["spec"]["containers"][0]
    environment = {each["name"]: each for each in container["env"]}
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert environment[names.ENV_RANK]["valueFrom"]["fieldRef"]["fieldPath"] == index
    assert environment[names.ENV_ADDRESS]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
    assert environment[names.ENV_RANKS]["value"] == "3"
    assert {"name": "rendezvous", "containerPort": names.RENDEZVOUS_PORT, "protocol": "TCP"} in container["ports"]
    at = container["args"].index("--rendezvous-port")
    assert container["args"][at + 1] == str(names.RENDEZVOUS_PORT)


def test_one_pod_is_a_plain_job_without_a_rank() -> None:
    spec = job()["spec"]
    assert (spec["completions"], spec["parallelism"]) == (1, 1)
    assert "completionMode" not in spec
    container = spec["template"]["spec"]["containers"][0]
    assert not {names.ENV_RANK, names.ENV_RANKS, names.ENV_ADDRESS} & {each["name"] for each in container["env"]}
    assert [each["name"] for each in container["ports"]] == ["metrics"]
