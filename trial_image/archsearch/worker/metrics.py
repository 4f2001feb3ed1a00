"""Prometheus metrics of one worker, in a registry of their own. No trial number and no architecture is ever a label."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server

_TRIAL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
_WAIT_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)


class WorkerMetrics:
    """What a worker did. Set by the supervisor; the values of the newest trial stand until the next one reports."""

    def __init__(self, worker_version: str, device: str) -> None:
        self.registry = registry = CollectorRegistry()
        prefix = "archsearch_worker"
        Info(prefix, "Version and device of this worker.", registry=registry).info(
            {"version": worker_version, "device": device}
        )
        self.trials = Counter(
            f"{prefix}_trials_total", "Trials ended, by kind and how.", ["kind", "result"], registry=registry
        )
        self.trial_seconds = Histogram(
            f"{prefix}_trial_seconds",
            "Wall-clock time of a trial.",
            ["kind"],
            buckets=_TRIAL_BUCKETS,
            registry=registry,
        )
        self.running = Gauge(f"{prefix}_running_trials", "Trials that run now.", registry=registry)
        self.step = Gauge(f"{prefix}_step", "Step that the newest trial reported last.", registry=registry)
        self.loss = Gauge(f"{prefix}_loss", "Metric loss that the newest trial reported last.", registry=registry)
        self.steps_per_second = Gauge(
            f"{prefix}_steps_per_second", "Metric steps_per_second, as reported last.", registry=registry
        )
        self.examples_per_second = Gauge(
            f"{prefix}_examples_per_second", "Metric examples_per_second, as reported last.", registry=registry
        )
        self.upload_bytes = Counter(f"{prefix}_upload_bytes_total", "Bytes written to the store.", registry=registry)
        self.upload_seconds = Counter(
            f"{prefix}_upload_seconds_total", "Time spent writing to the store.", registry=registry
        )
        self.checkpoints = Counter(f"{prefix}_checkpoints_total", "Checkpoints uploaded.", registry=registry)
        self.lease_wait = Histogram(
            f"{prefix}_lease_wait_seconds",
            "Time from asking for a trial to having it.",
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self.restarts = Counter(
            f"{prefix}_child_restarts_total",
            "Times that the zygote or a long-lived child was started again.",
            registry=registry,
        )
        self.heartbeat_failures = Counter(
            f"{prefix}_heartbeat_failures_total", "Reports that the driver did not take.", registry=registry
        )
        self._by_name = {
            "loss": self.loss,
            "steps_per_second": self.steps_per_second,
            "examples_per_second": self.examples_per_second,
        }

    def serve(self, port: int) -> None:
        """Answer scrapes on every address of this pod.

        Raises:
            OSError: the port is taken.
        """
        start_http_server(port, registry=self.registry)

    def point(self, step: int, metrics: Mapping[str, float]) -> None:
        """A point of the learning curve came in."""
        self.step.set(step)
        for name, gauge in self._by_name.items():
            if name in metrics:
                gauge.set(metrics[name])
