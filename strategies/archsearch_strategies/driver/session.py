"""What a driver has once its ledger is open: the ledger, the journal that writes it, and the lease book."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from archsearch.errors import StoreUnavailable
from archsearch.store import Store
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.journal import Journal
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.lease.book import LeaseBook
from archsearch_strategies.ledger import Ledger

_LONGEST_PAUSE_SECONDS = 10.0


@dataclass
class Session:
    """All of one epoch."""

    ledger: Ledger
    journal: Journal
    book: LeaseBook
    recorded: list[r.Record]  # what the strategy's replay needs; emptied by it
    watch: asyncio.Task[None]  # ends when the ledger cannot be written any more

    async def close(self, last: r.Record | None) -> None:
        """Write a last record, where the ledger still can be written, and close it."""
        self.watch.cancel()
        if last is not None and self.ledger.failure is None:
            self.journal.write(last)
            self.journal.flush()
        await asyncio.to_thread(self.ledger.close)


async def open_ledger(
    store: Store, *, patience: float, waiting: Callable[[StoreUnavailable], None], stopped: Callable[[], bool]
) -> Ledger:
    """Open the ledger off the event loop, again and again while the store does not answer.

    Args:
        patience: seconds until that is an error.
        waiting: told of each failed attempt.
        stopped: whether to give up.

    Raises:
        StoreError: the store refuses.
        StoreUnavailable: it did not answer in time.
    """
    writer = f"{socket.gethostname()}-{os.getpid()}"
    end, pause = time.monotonic() + patience, 0.5
    while True:
        try:
            return await asyncio.to_thread(Ledger.open, store, writer)
        except StoreUnavailable as error:
            if time.monotonic() >= end or stopped():
                raise
            waiting(error)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)


def replay(ledger: Ledger, table: TrialTable) -> list[r.Record]:
    """Bring the table up to date; gives what the strategy's replay needs, and frees the rest."""
    recorded = table.replay(ledger.records)
    ledger.records.clear()
    return recorded
