"""The Job of a worker, built by a pure function: the same inputs give the same object.

The user's template goes through as it is; what archsearch must set is laid over it.
"""

from __future__ import annotations

from collections.abc import Mapping

from archsearch.spec import names
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import ExperimentSpec
from archsearch.spec.pods import Isolation, PodTemplate
from archsearch.spec.wiring import DriverSettings

CONTAINER = "worker"
INIT_CONTAINER = "secrets"
GRACE_SECONDS = 30  # more than a worker gives its trial for a checkpoint, since it uploads that afterwards
TTL_SECONDS = 24 * 3600  # finished Jobs are deleted by the driver; this is for those whose driver never came back
BACKOFF_LIMIT = 100_000  # the driver counts crashes, not the Job
DEFAULT_REQUESTS = {"cpu": "250m", "memory": "512Mi"}
DEFAULT_CPU_LIMIT = "1"  # a trial takes as many threads as its limit allows; without one each would take the whole node

RESERVED_PREFIX = "archsearch-"
_VOLUME_SECRETS = "archsearch-secrets"
_VOLUME_TOKEN = "archsearch-token"  # noqa: S105 - a volume's name
_VOLUME_STORAGE = "archsearch-storage"
_VOLUME_CA = "archsearch-ca"
_VOLUME_CODE = "archsearch-code"
_VOLUME_TMP = "archsearch-tmp"
_VOLUME_SHM = "archsearch-shm"
PATH_SHM = "/dev/shm"  # noqa: S108 - in memory, for the data loaders of torch
PATH_TMP = "/tmp"  # noqa: S108 - the pod's own
RESERVED_PATHS = (
    PATH_TMP,
    PATH_SHM,
    names.PATH_SECRETS,
    names.PATH_TOKEN,
    names.PATH_STORAGE_SECRET,
    names.PATH_CODE,
)

# Copies what is there into the volume in memory. A missing storage key is the driver's to tell.
_COPIED = (
    f"{names.PATH_TOKEN}/{names.SECRET_TOKEN_KEY}",
    *(f"{names.PATH_STORAGE_SECRET}/{key}" for key in names.STORAGE_SECRET_KEYS),
    f"{names.PATH_CA_BUNDLE}/ca.crt",
)
_COPY = f"""set -eu
umask 077
for file in {" ".join(_COPIED)}; do
  if [ -f "$file" ]; then cp "$file" {names.PATH_SECRETS}/; fi
done
"""

_CONTAINER_SECURITY: JsonObject = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def trial_labels(settings: DriverSettings) -> dict[str, str]:
    """Labels of every trial Job and pod of one experiment."""
    return {
        names.LABEL_EXPERIMENT: settings.experiment,
        names.LABEL_EXPERIMENT_UID: settings.uid,
        names.LABEL_COMPONENT: names.COMPONENT_TRIAL,
    }


def trial_selector(settings: DriverSettings) -> str:
    """The label selector of an experiment's trial Jobs and pods."""
    return f"{names.LABEL_EXPERIMENT_UID}={settings.uid},{names.LABEL_COMPONENT}={names.COMPONENT_TRIAL}"


def lease_url(settings: DriverSettings) -> str:
    """Where workers reach the driver. The cluster's own domain is left to the pods' search path."""
    return f"http://{settings.service}.{settings.namespace}.svc:{names.LEASE_PORT}"


def trial_job(
    spec: ExperimentSpec,
    settings: DriverSettings,
    *,
    name: str,
    url: str,
    labels: Mapping[str, str] | None = None,
    ranks: int = 1,
) -> JsonObject:
    """The Job of one worker, or of several that run a trial together: an Indexed Job, an index a rank.

    Args:
        spec: the experiment's spec.
        settings: what the operator told the driver: images, Secrets, the experiment's identity.
        name: the Job's name.
        url: where the worker leases.
        labels: labels of Job and pod beside archsearch's own.
        ranks: pods of the Job. They need no Service: each tells its address when it asks for a trial, and the driver
            tells rank 0's to the others.
    """
    template = spec.trials.template
    ours = {
        **(labels or {}),
        "app.kubernetes.io/name": "archsearch",
        "app.kubernetes.io/instance": settings.experiment,
        "app.kubernetes.io/component": names.COMPONENT_TRIAL,
        "app.kubernetes.io/managed-by": "archsearch-driver",
        **trial_labels(settings),
    }
    pod_metadata: JsonObject = {
        "labels": {**template.labels, **ours},
        "annotations": {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(names.METRICS_PORT),
            **template.annotations,
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": ours,
            "ownerReferences": [owner(settings)],
        },
        "spec": {
            "completions": ranks,
            "parallelism": ranks,
            **({"completionMode": "Indexed"} if ranks > 1 else {}),
            "backoffLimit": BACKOFF_LIMIT,
            "ttlSecondsAfterFinished": TTL_SECONDS,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {"metadata": pod_metadata, "spec": _pod(spec, settings, name, url, ranks)},
        },
    }


def owner(settings: DriverSettings) -> JsonObject:
    """The experiment as owner: deleting it deletes the Job."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": settings.experiment,
        "uid": settings.uid,
        "controller": True,
    }


def _failure_rules() -> list[JsonObject]:
    def exited(code: int) -> JsonObject:
        return {"containerName": CONTAINER, "operator": "In", "values": [code]}

    return [
        {"action": "FailJob", "onExitCodes": exited(names.EXIT_REFUSED)},
        {"action": "Ignore", "onExitCodes": exited(names.EXIT_TERMINATED)},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]


def _pod(spec: ExperimentSpec, settings: DriverSettings, job: str, url: str, ranks: int) -> JsonObject:
    template = spec.trials.template
    passed = _given(
        {
            "nodeSelector": template.node_selector,
            "tolerations": template.tolerations,
            "affinity": template.affinity,
            "topologySpreadConstraints": template.topology_spread_constraints,
            "priorityClassName": template.priority_class_name,
            "runtimeClassName": template.runtime_class_name,
            "schedulerName": template.scheduler_name,
            "imagePullSecrets": template.image_pull_secrets,
            "serviceAccountName": template.service_account_name,
            "resourceClaims": template.resource_claims,
        }
    )
    return {
        **passed,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.CONTAINER_UID,
            "runAsGroup": names.CONTAINER_UID,
            "fsGroup": names.CONTAINER_UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [_init_container(settings)],
        "containers": [_worker(spec, settings, job, url, ranks)],
        "volumes": [*template.volumes, *_volumes(spec, settings)],
    }


def _given(fields: JsonObject) -> JsonObject:
    return {key: value for key, value in fields.items() if value}


def _init_container(settings: DriverSettings) -> JsonObject:
    mounts = [
        {"name": _VOLUME_SECRETS, "mountPath": names.PATH_SECRETS},
        {"name": _VOLUME_TOKEN, "mountPath": names.PATH_TOKEN, "readOnly": True},
    ]
    if settings.storage.secret_name:
        mounts.append({"name": _VOLUME_STORAGE, "mountPath": names.PATH_STORAGE_SECRET, "readOnly": True})
    if settings.storage.ca_config_map_name:
        mounts.append({"name": _VOLUME_CA, "mountPath": names.PATH_CA_BUNDLE, "readOnly": True})
    return {
        "name": INIT_CONTAINER,
        "image": settings.trial_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["/bin/sh", "-c", _COPY],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": mounts,
    }


def _worker(spec: ExperimentSpec, settings: DriverSettings, job: str, url: str, ranks: int) -> JsonObject:
    template = spec.trials.template
    mounts: list[JsonObject] = [
        {"name": _VOLUME_TMP, "mountPath": PATH_TMP},
        {"name": _VOLUME_SHM, "mountPath": PATH_SHM},
        {"name": _VOLUME_SECRETS, "mountPath": names.PATH_SECRETS},
    ]
    if _code_config_map(spec):
        mounts.append({"name": _VOLUME_CODE, "mountPath": names.PATH_CODE, "readOnly": True})
    return {
        "name": CONTAINER,
        "image": settings.trial_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "archsearch.worker"],
        "args": [
            *("--metrics-port", str(names.METRICS_PORT), "--per-job", per_job(spec)),
            *(("--rendezvous-port", str(names.RENDEZVOUS_PORT)) if ranks > 1 else ()),
        ],
        "env": [*_user_environment(template), *_environment(spec, job, url), *_member(ranks)],
        **_given({"envFrom": template.env_from}),
        "ports": [
            _port("metrics", names.METRICS_PORT),
            *([_port("rendezvous", names.RENDEZVOUS_PORT)] if ranks > 1 else []),
        ],
        "resources": _resources(template),
        "securityContext": _CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [*template.volume_mounts, *mounts],
    }


def per_job(spec: ExperimentSpec) -> str:
    """Trials that one worker runs, as its flag takes it. isolation Pod gives each a Job of its own."""
    return "1" if spec.trials.isolation is Isolation.POD else str(spec.trials.per_job)


def _environment(spec: ExperimentSpec, job: str, url: str) -> list[JsonObject]:
    environment: list[JsonObject] = [
        {"name": names.ENV_DRIVER_URL, "value": url},
        {"name": names.ENV_SECRETS_DIR, "value": names.PATH_SECRETS},
        {"name": names.ENV_WORK_DIR, "value": names.PATH_WORK},
        {"name": names.ENV_JOB_NAME, "value": job},
        {"name": names.ENV_WORKER_NAME, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
    ]
    if _code_config_map(spec):
        environment.append({"name": names.ENV_CODE_DIR, "value": names.PATH_CODE})
    return environment


def _port(name: str, number: int) -> JsonObject:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _member(ranks: int) -> list[JsonObject]:
    """What a pod of several is told of itself."""
    if ranks == 1:
        return []

    def field(name: str, path: str) -> JsonObject:
        return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}

    return [
        field(names.ENV_RANK, "metadata.annotations['batch.kubernetes.io/job-completion-index']"),
        {"name": names.ENV_RANKS, "value": str(ranks)},
        field(names.ENV_ADDRESS, "status.podIP"),
    ]


def _user_environment(template: PodTemplate) -> list[JsonObject]:
    """Without what is archsearch's: a name given twice would depend on the order."""
    return [entry for entry in template.env if not str(entry.get("name", "")).startswith("ARCHSEARCH_")]


def _resources(template: PodTemplate) -> JsonObject:
    """The user's, with small requests where nothing is said: a pod without any is the first to be evicted.

    Whoever asks for a device feeds it with as many CPUs as the node gives, unless told otherwise.
    """
    requests = dict(template.resources.get("requests") or {})
    limits = dict(template.resources.get("limits") or {})
    named = {*requests, *limits}
    if "cpu" not in named and not any("/" in resource for resource in named) and "claims" not in template.resources:
        limits["cpu"] = DEFAULT_CPU_LIMIT
        requests["cpu"] = DEFAULT_REQUESTS["cpu"]
    for resource, amount in DEFAULT_REQUESTS.items():
        if resource not in requests and resource not in limits:
            requests[resource] = amount
    return {**template.resources, **_given({"requests": requests, "limits": limits})}


def _code_config_map(spec: ExperimentSpec) -> str:
    python = spec.model_space.python
    return (python.source.config_map_name or "") if python is not None and python.source is not None else ""


def _volumes(spec: ExperimentSpec, settings: DriverSettings) -> list[JsonObject]:
    def secret(volume: str, name: str) -> JsonObject:
        return {"name": volume, "secret": {"secretName": name, "defaultMode": 0o440}}

    volumes: list[JsonObject] = [
        {"name": _VOLUME_TMP, "emptyDir": {}},
        {"name": _VOLUME_SHM, "emptyDir": {"medium": "Memory"}},
        {"name": _VOLUME_SECRETS, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        secret(_VOLUME_TOKEN, settings.token_secret),
    ]
    if settings.storage.secret_name:
        volumes.append(secret(_VOLUME_STORAGE, settings.storage.secret_name))
    if settings.storage.ca_config_map_name:
        volumes.append({"name": _VOLUME_CA, "configMap": {"name": settings.storage.ca_config_map_name}})
    code = _code_config_map(spec)
    if code:
        # Optional: a missing ConfigMap is an import error that names the module, not a pod that waits without a word.
        volumes.append({"name": _VOLUME_CODE, "configMap": {"name": code, "optional": True}})
    return volumes
