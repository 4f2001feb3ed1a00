"""`archsearch validate --live`: tries bucket and keys, asks the cluster by dry runs, looks for the images."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from typing import Any

from archsearch.errors import ArchsearchError
from archsearch.spec import names
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import NASExperiment
from archsearch.spec.pods import PodTemplate
from archsearch.spec.problems import Problem
from archsearch.store import Credentials, Store, open_at
from archsearch_cli.images import ImageName, in_registry
from archsearch_cli.output import note
from archsearch_strategies.driver.earlier import read_run

# What a pod's container has of a template; everything else is the pod's own.
_CONTAINER = {"resources", "volumeMounts", "env", "envFrom"}
_METADATA = {"labels", "annotations"}


def live_problems(experiment: NASExperiment, document: JsonObject) -> list[Problem]:
    """What the outside says against a manifest that is sound in itself."""
    cluster = _cluster()
    if cluster is None:
        note("no cluster is configured (KUBECONFIG): only the storage is tried, with the keys of this machine")
        return _check_images(experiment, set()) + _check_storage(experiment, None)
    namespace = str(document.get("metadata", {}).get("namespace") or cluster.namespace)
    try:
        problems = cluster.dry_run_experiment(document, namespace) + cluster.dry_run_pod(experiment, namespace)
        credentials, faults = cluster.credentials(experiment, namespace)
        problems += _check_images(experiment, cluster.images())
    except OSError as error:  # urllib3's and the client's own connection errors
        return [Problem("cluster", f"does not answer: {error}", remedy="check KUBECONFIG and the network")]
    return problems + (faults or _check_storage(experiment, credentials))


def _check_images(experiment: NASExperiment, on_nodes: set[str]) -> list[Problem]:
    """Images that the manifest names itself; the chart's own are the chart's business."""
    spec, problems = experiment.spec, []
    for path, image in (("spec.trials.image", spec.trials.image), ("spec.driver.image", spec.driver.image)):
        if not image:
            continue
        name = ImageName.parse(image)
        if name.full() in on_nodes:
            continue
        there, why = in_registry(name)
        if there is None:
            note(f"{path}: whether {image} can be pulled is not known: {why}")
        elif not there:
            problems.append(Problem(path, f"there is no such image: {why}", image, "push it, or correct the name"))
    return problems


def _check_storage(experiment: NASExperiment, credentials: Credentials | None) -> list[Problem]:
    storage = experiment.spec.storage

    def opened(uri: str) -> Store:
        return open_at(storage, uri, credentials=credentials)

    try:
        if storage.uri:
            opened(storage.uri).check()
    except ArchsearchError as error:
        return [Problem("spec.storage", str(error))]
    return _check_warm_start(experiment, opened)


def _check_warm_start(experiment: NASExperiment, opened: Callable[[str], Store]) -> list[Problem]:
    """Whether the earlier runs can be read. Of which space they are a worker has to tell."""
    problems = []
    for index, run in enumerate(experiment.spec.warm_start):
        try:
            read_run(index, run.uri, opened, experiment.spec.objectives)
        except ArchsearchError as error:
            path, text = f"spec.warmStart[{index}].uri", str(error)
            problems.append(Problem(path, text.removeprefix(f"{path}: ")))
    return problems


class _Cluster:
    """A thin client of the cluster that the current context names."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    def dry_run_experiment(self, document: JsonObject, namespace: str) -> list[Problem]:
        path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"
        status, reply = self._post(path, document)
        if status == 409:  # one of that name runs: the file itself was not refused
            return []
        if status == 404 and reply.get("details", {}).get("kind") != "namespaces":
            return [Problem("cluster", "does not know NASExperiment", remedy="install the chart helm/archsearch")]
        return _problems(status, reply, "the API server refuses the experiment")

    def dry_run_pod(self, experiment: NASExperiment, namespace: str) -> list[Problem]:
        """A pod of the user's template, by itself: unknown fields, bad quantities, images whose name cannot be read."""
        trials = experiment.spec.trials
        status, reply = self._post(f"/api/v1/namespaces/{namespace}/pods", trial_pod(trials.template, trials.image))
        return _problems(status, reply, "the API server refuses a pod of spec.trials")

    def credentials(self, experiment: NASExperiment, namespace: str) -> tuple[Credentials | None, list[Problem]]:
        name = experiment.spec.storage.secret_name
        if not name:
            return None, []
        status, reply = self._call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
        if status == 404:
            remedy = f"create it with the keys {names.STORAGE_SECRET_KEYS[0]} and {names.STORAGE_SECRET_KEYS[1]}"
            message = f"namespace {namespace!r} has no such Secret"
            return None, [Problem("spec.storage.secretName", message, name, remedy)]
        if status >= 300:
            return None, _problems(status, reply, "the Secret cannot be read")
        data = reply.get("data") or {}
        keys = [base64.b64decode(data.get(key, "")).decode(errors="replace") for key in names.STORAGE_SECRET_KEYS]
        absent = [key for key, value in zip(names.STORAGE_SECRET_KEYS[:2], keys, strict=False) if not value]
        if absent:
            message = f"the Secret has no {' and no '.join(absent)}"
            return None, [Problem("spec.storage.secretName", message, name, "add the key")]
        return Credentials(*keys), []

    def images(self) -> set[str]:
        """Full names of the images that nodes hold; empty where this user may not list nodes."""
        status, reply = self._call("GET", "/api/v1/nodes")
        nodes = reply.get("items") or [] if status < 300 else []
        held = (
            name
            for node in nodes
            for image in (node.get("status") or {}).get("images") or []
            for name in image["names"]
        )
        return {ImageName.parse(name).full() for name in held}

    def _post(self, path: str, body: JsonObject) -> tuple[int, JsonObject]:
        return self._call("POST", path, body, [("dryRun", "All"), ("fieldValidation", "Strict")])

    def _call(
        self, method: str, path: str, body: JsonObject | None = None, query: list[tuple[str, str]] | None = None
    ) -> tuple[int, JsonObject]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            response = self._client.call_api(
                path,
                method,
                query_params=query or [],
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=30,
            )
            return int(response.status), json.loads(response.data)
        except ApiException as error:
            try:
                return int(error.status or 0), json.loads(error.body)
            except (TypeError, ValueError):
                return int(error.status or 0), {"message": str(error.reason)}
        except HTTPError as error:
            raise OSError(str(error)) from error


def trial_pod(template: PodTemplate, image: str) -> JsonObject:
    """A bare pod with everything that the user's template asks for."""
    fields = {key: value for key, value in template.to_json().items() if value}
    container: JsonObject = {key: value for key, value in fields.items() if key in _CONTAINER}
    rest = {key: value for key, value in fields.items() if key not in _CONTAINER | _METADATA}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "archsearch-dry-run-", **{key: fields[key] for key in _METADATA & fields.keys()}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            **rest,
            "containers": [
                {
                    "name": "trial",
                    "image": image or "archsearch",
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    **container,
                }
            ],
        },
    }


def _problems(status: int, reply: JsonObject, what: str) -> list[Problem]:
    if status < 300:
        return []
    causes = (reply.get("details") or {}).get("causes") or []
    found = [
        Problem(cause["field"], cause["message"]) for cause in causes if cause.get("field") and cause.get("message")
    ]
    return found or [Problem("cluster", f"{what}: {reply.get('message') or f'HTTP {status}'}")]


def _cluster() -> _Cluster | None:
    try:
        from kubernetes import client, config
    except ImportError:
        note("the kubernetes package is not installed: pip install 'archsearch[trial]'")
        return None
    try:
        config.load_kube_config(os.environ.get("KUBECONFIG"))  # the client reads the variable at import only
        _, active = config.list_kube_config_contexts()
        namespace = active["context"].get("namespace") or "default"
    except config.ConfigException:
        return None
    return _Cluster(client.ApiClient(), namespace)
