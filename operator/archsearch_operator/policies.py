"""NetworkPolicies of an experiment: what its strategy and trial pods reach, and who reaches them."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from archsearch.spec import names
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import Storage
from archsearch_operator.objects import Experiment, metadata

_DNS: JsonObject = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
# The API server has no label to select: these are its ports, before and after its Service's address.
_API_SERVER: JsonObject = {"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]}


def network_policies(experiment: Experiment) -> list[JsonObject]:
    """One policy for the strategy pod, one for the trial pods."""
    trials, strategy = (
        {"podSelector": {"matchLabels": experiment.selector(component)}}
        for component in (names.COMPONENT_TRIAL, names.COMPONENT_STRATEGY)
    )
    store, metrics = store_egress(experiment.storage), {"ports": [_tcp(names.METRICS_PORT)]}
    return [
        _policy(
            experiment,
            names.COMPONENT_STRATEGY,
            ingress=[{"from": [trials], "ports": [_tcp(names.LEASE_PORT)]}, metrics],
            egress=[_DNS, _API_SERVER, store],
        ),
        _policy(
            experiment,
            names.COMPONENT_TRIAL,
            ingress=[{"from": [trials]}, metrics],
            egress=[_DNS, {"to": [trials]}, {"to": [strategy], "ports": [_tcp(names.LEASE_PORT)]}, store],
        ),
    ]


def store_egress(storage: Storage) -> JsonObject:
    """The way to the object store: its namespace, its address or, for a name outside the cluster, its port anywhere.

    A policy sees a Service's pods, not its port, so that inside the cluster every port of the namespace is open.
    """
    url = urlsplit(storage.endpoint or "https://s3.amazonaws.com")
    port = url.port or (80 if url.scheme == "http" else 443)
    host = url.hostname or ""
    namespace = _service_namespace(host)
    if namespace:
        return {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]}
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return {"ports": [_tcp(port)]}
    return {"to": [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}], "ports": [_tcp(port)]}


def _service_namespace(host: str) -> str:
    """The namespace in NAME.NAMESPACE.svc[.cluster.local]; empty for any other host."""
    parts = host.split(".")
    return parts[1] if len(parts) >= 3 and parts[2] == "svc" else ""


def _tcp(port: int) -> JsonObject:
    return {"protocol": "TCP", "port": port}


def _policy(
    experiment: Experiment, component: str, *, ingress: list[JsonObject], egress: list[JsonObject]
) -> JsonObject:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(experiment, names.network_policy(experiment.name, component), component),
        "spec": {
            "podSelector": {"matchLabels": experiment.selector(component)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }
