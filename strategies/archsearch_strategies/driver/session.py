"""What a driver has once its ledger is open: the ledger, the journal that writes it, and the lease book."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from archsearch.errors import StoreUnavailable
from archsearch.protocol import Assignment
from archsearch.spec.experiment import ExperimentSpec
from archsearch.spec.pods import Isolation
from archsearch.store import Store
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.journal import Journal
from archsearch_strategies.driver.retention import Retention
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.lease.book import BookSettings, LeaseBook
from archsearch_strategies.ledger import Ledger
from archsearch_strategies.strategy import Strategy

_LONGEST_PAUSE_SECONDS = 10.0
T = TypeVar("T")


@dataclass(frozen=True)
class Callbacks:
    """What the driver does for the lease book, and hears of it."""

    assign: Callable[[Row], Assignment]
    finished: Callable[[Row], None]
    granted: Callable[[], None]
    waited: Callable[[float], None]  # seconds that a trial was in the queue


@dataclass
class Session:
    """All of one epoch."""

    ledger: Ledger
    journal: Journal
    book: LeaseBook
    retention: Retention
    recorded: list[r.Record]  # what the strategy's replay needs; emptied by it
    watch: asyncio.Task[None] | None = None  # ends when the ledger cannot be written any more

    async def close(self, last: r.Record | None) -> None:
        """Write a last record, where the ledger still can be written, and close it."""
        if self.watch is not None:
            self.watch.cancel()
        if last is not None and self.ledger.failure is None:
            self.journal.write(last)
            self.journal.flush()
        await self.retention.close()
        await asyncio.to_thread(self.ledger.close)


def writer_name() -> str:
    """How this process signs what it writes to a ledger."""
    return f"{socket.gethostname()}-{os.getpid()}"


async def patiently(
    action: Callable[[], T],
    *,
    patience: float,
    waiting: Callable[[StoreUnavailable], None],
    stopped: Callable[[], bool],
) -> T:
    """What `action` gives, called off the event loop again and again while the store does not answer.

    Args:
        patience: seconds until that is an error.
        waiting: told of each failed attempt.
        stopped: whether to give up.

    Raises:
        StoreUnavailable: it did not answer in time. And what else `action` raises.
    """
    end, pause = time.monotonic() + patience, 0.5
    while True:
        try:
            return await asyncio.to_thread(action)
        except StoreUnavailable as error:
            if time.monotonic() >= end or stopped():
                raise
            waiting(error)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)


def begin(
    ledger: Ledger,
    store: Store,
    table: TrialTable,
    spec: ExperimentSpec,
    callbacks: Callbacks,
    *,
    lease_seconds: float,
    strategy: type[Strategy[Any]],
    wall: Callable[[], float],
) -> Session:
    """Bring the table up to date from an open ledger, and be ready to lease. Needs a running event loop."""
    recorded = table.replay(ledger.records)
    ledger.records.clear()
    journal = Journal(ledger, table)
    settings = BookSettings(
        epoch=ledger.epoch,
        retries=spec.trials.retries,
        objectives=table.objectives,
        parallelism=spec.parallel_trials,
        constraints=tuple(spec.constraints),
        lease_seconds=lease_seconds,
        nodes=spec.trials.nodes,
        per_job=_per_job(spec),
    )
    book = LeaseBook(
        settings,
        table,
        journal,
        assign=callbacks.assign,
        finished=callbacks.finished,
        now=asyncio.get_running_loop().time,
        wall=wall,
    )
    book.granted, book.observe_wait = callbacks.granted, callbacks.waited
    retention = Retention(
        store,
        table,
        journal,
        keep=spec.retention.checkpoints,
        keep_all=strategy.reuses_weights,
        once=strategy.multi_fidelity,
    )
    return Session(ledger, journal, book, retention, recorded)


def _per_job(spec: ExperimentSpec) -> int:
    """Trials of one Job; 0: no bound. isolation Pod gives each a Job of its own."""
    if spec.trials.isolation is Isolation.POD:
        return 1
    return 0 if spec.trials.per_job == "Auto" else spec.trials.per_job
