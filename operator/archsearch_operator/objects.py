"""The children of an experiment, built by pure functions: the same inputs give the same objects, byte for byte."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from archsearch.spec import names
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import ExperimentSpec, Storage
from archsearch.spec.wiring import DriverSettings
from archsearch_operator.settings import Settings

MANAGED_BY = "archsearch-operator"
ANNOTATION_BUDGET_HASH = f"{names.GROUP}/budget-hash"
ANNOTATION_ATTEMPT = f"{names.GROUP}/attempt"
TERMINATION_SECONDS = 30
# A driver is started again for ever: only its own verdict ends an experiment.
_BACKOFF_LIMIT = 1_000_000
_TOKEN_SECONDS = 3607  # one hour, and the kubelet renews it at 80 %
_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True)
class Experiment:
    """What the builders need of an experiment whose spec was parsed."""

    namespace: str
    name: str
    uid: str
    spec: ExperimentSpec
    storage: Storage  # resolved

    @property
    def labels(self) -> dict[str, str]:
        return {names.LABEL_EXPERIMENT: self.name, names.LABEL_EXPERIMENT_UID: self.uid}

    def selector(self, component: str) -> dict[str, str]:
        return {**self.labels, names.LABEL_COMPONENT: component}


def selector_text(uid: str, component: str) -> str:
    """The label selector of an experiment's Jobs and pods of one component."""
    return f"{names.LABEL_EXPERIMENT_UID}={uid},{names.LABEL_COMPONENT}={component}"


def digest(document: Any) -> str:
    """A short hash of a JSON document."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def driver_hash(spec: ExperimentSpec) -> str:
    """Changes when the strategy pod must be made anew."""
    return digest(spec.driver.to_json())


def budget_hash(spec: ExperimentSpec) -> str:
    """Changes when a finished search may go on."""
    return digest(spec.budget.to_json())


def metadata(
    experiment: Experiment, name: str, component: str = names.COMPONENT_STRATEGY, annotations: JsonObject | None = None
) -> JsonObject:
    meta: JsonObject = {
        "name": name,
        "namespace": experiment.namespace,
        "labels": {
            "app.kubernetes.io/name": "archsearch",
            "app.kubernetes.io/instance": experiment.name,
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/managed-by": MANAGED_BY,
            **experiment.selector(component),
        },
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": experiment.name,
                "uid": experiment.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    return meta | ({"annotations": annotations} if annotations else {})


def token_secret(experiment: Experiment, token: str) -> JsonObject:
    return _secret(experiment, names.token_secret(experiment.name, experiment.uid), {names.SECRET_TOKEN_KEY: token})


def storage_secret(experiment: Experiment, keys: dict[str, str]) -> JsonObject:
    return _secret(experiment, names.storage_secret(experiment.name, experiment.uid), keys)


def _secret(experiment: Experiment, name: str, data: dict[str, str]) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(experiment, name),
        "type": "Opaque",
        "immutable": True,
        "stringData": data,
    }


def service_account(experiment: Experiment) -> JsonObject:
    name = names.service_account(experiment.name)
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(experiment, name, annotations=experiment.spec.driver.service_account_annotations or None),
        "automountServiceAccountToken": False,
    }


def role_rules(experiment_name: str) -> list[JsonObject]:
    """What a strategy pod may do. The operator must hold all of it, or it could not hand it on."""
    return [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "delete", "get", "list", "patch", "watch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {
            "apiGroups": [names.GROUP],
            "resources": [names.PLURAL],
            "resourceNames": [experiment_name],
            "verbs": ["get", "watch"],
        },
        {
            "apiGroups": [names.GROUP],
            "resources": [f"{names.PLURAL}/status"],
            "resourceNames": [experiment_name],
            "verbs": ["patch"],
        },
    ]


def role(experiment: Experiment) -> JsonObject:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": metadata(experiment, names.role(experiment.name)),
        "rules": role_rules(experiment.name),
    }


def role_binding(experiment: Experiment) -> JsonObject:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(experiment, names.role(experiment.name)),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": names.role(experiment.name)},
        "subjects": [
            {
                "kind": "ServiceAccount",
                "name": names.service_account(experiment.name),
                "namespace": experiment.namespace,
            }
        ],
    }


def service(experiment: Experiment) -> JsonObject:
    """Headless, with pods that are not ready: workers find the driver from its first second on."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(experiment, names.service(experiment.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": experiment.selector(names.COMPONENT_STRATEGY),
            "ports": [
                {"name": "lease", "port": names.LEASE_PORT, "targetPort": names.LEASE_PORT, "protocol": "TCP"},
                {"name": "metrics", "port": names.METRICS_PORT, "targetPort": names.METRICS_PORT, "protocol": "TCP"},
            ],
        },
    }


def driver_settings(experiment: Experiment, settings: Settings) -> DriverSettings:
    return DriverSettings(
        experiment=experiment.name,
        namespace=experiment.namespace,
        uid=experiment.uid,
        storage=experiment.storage,
        trial_image=experiment.spec.trials.image or settings.trial_image,
        image_pull_policy=settings.image_pull_policy,
        gpu_resource=settings.gpu_resource,
        service=names.service(experiment.name),
        token_secret=names.token_secret(experiment.name, experiment.uid),
    )


def strategy_job(experiment: Experiment, settings: Settings, *, suspend: bool = False, attempt: int = 1) -> JsonObject:
    """The Job whose one pod runs the driver.

    It has no failure policy, and a pod that goes is replaced before it is gone: the ledger makes two drivers safe.
    """
    annotations = {
        names.ANNOTATION_SPEC_HASH: driver_hash(experiment.spec),
        ANNOTATION_BUDGET_HASH: budget_hash(experiment.spec),
        ANNOTATION_ATTEMPT: str(attempt),
    }
    meta = metadata(experiment, names.strategy_job(experiment.name), annotations=annotations)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "suspend": suspend,
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": _BACKOFF_LIMIT,
            "podReplacementPolicy": "TerminatingOrFailed",
            "template": {
                "metadata": {
                    "labels": dict(meta["labels"]),
                    # For Prometheus without the Prometheus operator; a PodMonitor does not need them.
                    "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": str(names.METRICS_PORT)},
                },
                "spec": _pod(experiment, settings),
            },
        },
    }


def _pod(experiment: Experiment, settings: Settings) -> JsonObject:
    driver = experiment.spec.driver
    pod: JsonObject = {
        # The container starts again in its pod at once; its back-off ends after ten good minutes, a Job's never does.
        "restartPolicy": "OnFailure",
        "serviceAccountName": names.service_account(experiment.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.CONTAINER_UID,
            "runAsGroup": names.CONTAINER_UID,
            "fsGroup": names.CONTAINER_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(experiment, settings)],
        "volumes": [volume for volume, _ in _volumes(experiment)],
    }
    optional = {
        "nodeSelector": driver.node_selector,
        "tolerations": driver.tolerations,
        "imagePullSecrets": driver.image_pull_secrets,
    }
    return pod | {key: value for key, value in optional.items() if value}


def _container(experiment: Experiment, settings: Settings) -> JsonObject:
    driver = experiment.spec.driver
    document = json.dumps(driver_settings(experiment, settings).to_json(), sort_keys=True)
    return {
        "name": names.COMPONENT_STRATEGY,
        "image": driver.image or settings.trial_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "archsearch_strategies.driver"],
        "env": [{"name": names.ENV_DRIVER_SETTINGS, "value": document}],
        "ports": [
            {"name": "lease", "containerPort": names.LEASE_PORT},
            {"name": "metrics", "containerPort": names.METRICS_PORT},
            {"name": "health", "containerPort": names.HEALTH_PORT},
        ],
        # Only a driver whose event loop has stood still for five minutes is killed: a busy one must not be.
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "health"},
            "initialDelaySeconds": 20,
            "periodSeconds": 20,
            "timeoutSeconds": 10,
            "failureThreshold": 15,
        },
        "resources": driver.resources or settings.driver_resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount for _, mount in _volumes(experiment)],
    }


def _volumes(experiment: Experiment) -> list[tuple[JsonObject, JsonObject]]:
    """Pairs of a volume and its mount."""

    def pair(name: str, path: str, source: JsonObject, *, writable: bool = False) -> tuple[JsonObject, JsonObject]:
        return {"name": name, **source}, {"name": name, "mountPath": path} | ({} if writable else {"readOnly": True})

    def secret(name: str) -> JsonObject:
        return {"secret": {"secretName": name, "defaultMode": 0o440}}

    identity = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {
            "downwardAPI": {
                "items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]
            }
        },
    ]
    pairs = [
        pair("tmp", "/tmp", {"emptyDir": {}}, writable=True),  # noqa: S108 - the pod's own
        pair("identity", _SERVICE_ACCOUNT, {"projected": {"defaultMode": 0o440, "sources": identity}}),
        pair("token", names.PATH_TOKEN, secret(names.token_secret(experiment.name, experiment.uid))),
    ]
    storage = experiment.storage
    if storage.secret_name:
        pairs.append(pair("storage", names.PATH_STORAGE_SECRET, secret(storage.secret_name)))
    if storage.ca_config_map_name:
        source = {"configMap": {"name": storage.ca_config_map_name, "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
        pairs.append(pair("ca", names.PATH_CA_BUNDLE, source))
    return pairs
