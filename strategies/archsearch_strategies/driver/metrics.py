"""The driver's Prometheus metrics. Labels are bounded sets: never a trial, an architecture or a worker."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from archsearch.protocol import TrialState
from archsearch_strategies.driver.rows import FINISHED, Row
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.ledger.writer import LedgerStats

_SECONDS = (0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600, 14400, 86400)


class DriverMetrics:
    """One driver's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._totals: dict[Counter, float] = {}
        self.trials = Counter(
            "archsearch_trials", "Trials that this driver saw finish.", ["kind", "result"], registry=registry
        )
        self.attempts = Counter(
            "archsearch_trial_failures", "Failed attempts of the run by class.", ["failure"], registry=registry
        )
        self.unfinished = Gauge(
            "archsearch_trials_unfinished", "Trials of the run by state.", ["state"], registry=registry
        )
        self.duration = Histogram(
            "archsearch_trial_duration_seconds",
            "Wall time of finished trials.",
            ["kind"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue = Histogram(
            "archsearch_trial_queue_seconds",
            "Time from a trial's submission to its lease.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.best = Gauge(
            "archsearch_best_objective", "Best value of the first objective.", ["metric"], registry=registry
        )
        self.gpu_seconds = Counter("archsearch_gpu_seconds", "GPU seconds of the run's trials.", registry=registry)
        self.alarms = Counter(
            "archsearch_collapse_alarms", "Warnings of the run's trials that a search collapses.", registry=registry
        )
        self.commits = Counter("archsearch_ledger_commits", "Commits of this driver to its ledger.", registry=registry)
        self.commit_seconds = Counter(
            "archsearch_ledger_commit_seconds", "Time spent in those commits.", registry=registry
        )
        self.lag = Gauge(
            "archsearch_ledger_lag_seconds",
            "How long the store has not taken a commit; 0 when it does.",
            registry=registry,
        )
        self.leases = Gauge("archsearch_leases_active", "Trials that are leased now.", registry=registry)
        self.expired = Counter(
            "archsearch_leases_expired", "Leases that ran out since this driver started.", registry=registry
        )
        self.workers = Gauge("archsearch_workers_alive", "Workers alive or starting.", registry=registry)
        self.epoch = Gauge("archsearch_ledger_epoch", "Epoch of this driver.", registry=registry)

    def finished(self, row: Row) -> None:
        """Count a finished trial."""
        self.trials.labels(row.kind.value, row.state.value).inc()
        if row.resources.wall_seconds:
            self.duration.labels(row.kind.value).observe(row.resources.wall_seconds)

    def observe(self, table: TrialTable) -> None:
        """Bring the gauges up to date."""
        for state in TrialState:
            if state not in FINISHED:
                self.unfinished.labels(state.value).set(table.counts[state])
        for failure, count in table.failures.items():
            self._count_up(self.attempts.labels(failure.value), count)
        if table.best:
            metric = table.objectives[0].metric
            self.best.labels(metric).set(table.best[0].metrics[metric])
        self._count_up(self.gpu_seconds, table.gpu_seconds)
        self._count_up(self.alarms, table.curves.alarmed)
        self.epoch.set(table.epoch)

    def observe_session(self, stats: LedgerStats, expired: int) -> None:
        """Bring the counts of ledger and leases up to date: totals since this driver started."""
        self._count_up(self.commits, stats.commits)
        self._count_up(self.commit_seconds, stats.commit_seconds)
        self._count_up(self.expired, expired)

    def _count_up(self, counter: Counter, total: float) -> None:
        """Bring a counter to a total that others keep."""
        before = self._totals.get(counter, 0.0)
        if total > before:
            counter.inc(total - before)
            self._totals[counter] = total
