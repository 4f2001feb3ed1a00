"""What the driver tells of itself: verdict, what it waits for, status snapshots and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable

from archsearch.spec import reasons
from archsearch.spec.status import SearchStatus, Verdict, Waiting
from archsearch_strategies.driver.metrics import DriverMetrics
from archsearch_strategies.driver.session import Session
from archsearch_strategies.driver.status import search_status
from archsearch_strategies.driver.trials import TrialTable

Listener = Callable[[SearchStatus], None]

INTERVAL_SECONDS = 1.0
STORE_LAG_SECONDS = 10.0  # a store that has not answered for so long is told


class Bulletin:
    """Keeps the verdict, and tells the listener at most once a second, when something changed."""

    def __init__(self, table: TrialTable, listener: Listener | None, wall: Callable[[], float]) -> None:
        self.listener = listener
        self.metrics = DriverMetrics()
        self.verdict = Verdict(reason=reasons.PENDING_VALIDATION)
        self.waiting: Waiting | None = None
        self.max_trials = 0
        self.session: Session | None = None
        self.changed = True
        self._table = table
        self._wall = wall
        self._told_at = float("-inf")
        self._searching_since: float | None = None
        self._finished_before = 0

    def judge(self, verdict: Verdict) -> None:
        """Set the verdict."""
        self.verdict, self.changed = verdict, True

    def wait_for(self, waiting: Waiting | None) -> None:
        """Set what is waited for."""
        self.waiting, self.changed = waiting, True

    def search_begins(self) -> None:
        """From here on the rate of finished trials is measured."""
        self._searching_since = time.monotonic()
        self._finished_before = self._table.counted_finished

    def status(self) -> SearchStatus:
        """The status now; bounded."""
        return search_status(
            self._table,
            max_trials=self.max_trials,
            verdict=self.verdict,
            waiting=self._store_waiting() or self.waiting,
            eta_seconds=self._eta(),
            now=self._wall(),
        )

    def tell(self, workers: int, *, last: bool = False) -> None:
        """Bring the metrics up to date and tell the listener, where there is news and the last was not just now."""
        now = time.monotonic()
        if not last and (not self.changed or now - self._told_at < INTERVAL_SECONDS):
            return
        self.changed, self._told_at = False, now
        self._observe(workers)
        if self.listener is not None:
            self.listener(self.status())

    def _observe(self, workers: int) -> None:
        metrics, session = self.metrics, self.session
        metrics.observe(self._table)
        metrics.workers.set(workers)
        if session is None:
            return
        metrics.leases.set(session.book.live)
        metrics.observe_session(session.ledger.stats, session.book.expired)
        since = session.ledger.lagging_since
        metrics.lag.set(0.0 if since is None else max(0.0, time.time() - since))

    def _store_waiting(self) -> Waiting | None:
        ledger = self.session.ledger if self.session is not None else None
        if ledger is None or ledger.lagging_since is None or time.time() - ledger.lagging_since < STORE_LAG_SECONDS:
            return None
        return Waiting(reason=reasons.STORE_UNAVAILABLE, message=ledger.lagging_reason[:4096])

    def _eta(self) -> float | None:
        """Seconds until budget.maxTrials at this driver's rate so far."""
        done = self._table.counted_finished - self._finished_before
        if self._searching_since is None or done < 1 or self._table.ended is not None:
            return None
        left = self.max_trials - self._table.counted_finished
        return max(0, left) * (time.monotonic() - self._searching_since) / done
