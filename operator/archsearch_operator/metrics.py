"""Prometheus metrics of the operator. No series outlives its experiment: those come from the store at each scrape."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from archsearch.spec.base import JsonObject
from archsearch_operator.store import Key

_TRIAL_STATES = ("pending", "running", "succeeded", "failed", "pruned", "infeasible", "cached")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Experiments(Collector):
    """Experiments by state, and each one's trials by state."""

    def __init__(self, source: Callable[[], Iterable[tuple[Key, JsonObject]]]) -> None:
        self._source = source

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        states: Tally[str] = Tally()
        trials = GaugeMetricFamily(
            "archsearch_experiment_trials",
            "Trials of an experiment by state.",
            labels=("namespace", "experiment", "state"),
        )
        for key, raw in self._source():
            status = raw.get("status") or {}
            states[status.get("state") or "Pending"] += 1
            counts = (status.get("search") or {}).get("trials") or {}
            for state in _TRIAL_STATES:
                if state in counts:
                    trials.add_metric((key.namespace, key.name, state), float(counts[state]))
        experiments = GaugeMetricFamily("archsearch_operator_experiments", "Experiments by state.", labels=("state",))
        for state in sorted(
            states | Tally(dict.fromkeys(("Pending", "Running", "Suspended", "Succeeded", "Failed"), 0))
        ):
            experiments.add_metric((state,), float(states[state]))
        yield experiments
        yield trials


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self, experiments: Callable[[], Iterable[tuple[Key, JsonObject]]]) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(_Experiments(experiments))
        build = Gauge("archsearch_operator_build_info", "Version of the operator.", ("version",), registry=registry)
        build.labels(_version()).set(1)
        self.reconcile_seconds = Histogram(
            "archsearch_operator_reconcile_seconds", "Duration of one reconcile.", buckets=_SECONDS, registry=registry
        )
        self.reconcile_errors = Counter(
            "archsearch_operator_reconcile_errors_total",
            "Reconciles that failed and are tried again.",
            ("reason",),
            registry=registry,
        )
        self.api_requests = Counter(
            "archsearch_operator_api_requests_total",
            "Requests to the API server by verb and code.",
            ("verb", "code"),
            registry=registry,
        )
        self.watch_events = Counter(
            "archsearch_operator_watch_events_total",
            "Events that the watches brought.",
            ("resource",),
            registry=registry,
        )
        self.last_event = Gauge(
            "archsearch_operator_watch_last_event_timestamp_seconds",
            "When a watch last brought an event.",
            ("resource",),
            registry=registry,
        )
        self.corrections = Counter(
            "archsearch_operator_store_corrections_total",
            "Objects that a LIST showed to be otherwise than seen.",
            ("resource",),
            registry=registry,
        )
        self.relists = Counter(
            "archsearch_operator_relists_total", "LISTs that set the store right.", ("result",), registry=registry
        )
        self.queue_depth = Gauge("archsearch_operator_queue_depth", "Keys that wait for a worker.", registry=registry)
        self.queue_wait = Histogram(
            "archsearch_operator_queue_wait_seconds",
            "Time that a key waited for a worker.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.events = Counter(
            "archsearch_operator_events_total", "Kubernetes Events posted, by reason.", ("reason",), registry=registry
        )
        self.lease_held = Gauge(
            "archsearch_operator_lease_held", "1 while this process holds the operator's Lease.", registry=registry
        )
        for resource in ("nasexperiments", "jobs"):
            self.watch_events.labels(resource)
            self.corrections.labels(resource)


def _version() -> str:
    try:
        return version("archsearch")
    except PackageNotFoundError:
        return "unknown"
