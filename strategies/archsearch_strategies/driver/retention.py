"""Deletes the weights of trials that are no longer among the best, in the background."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable

from archsearch.errors import StoreError
from archsearch.protocol import TrialKind
from archsearch.store import Store
from archsearch.store.checkpoint import MANIFEST
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.journal import Journal
from archsearch_strategies.driver.trials import TrialTable

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0


class Retention:
    """Keeps the weights of the best trials, of those that no other beats in all, and what is still needed.

    Those of supernets are kept until the search is over, then the newest, and what the best were evaluated with.
    First the ledger says that weights are gone, then they are deleted, so that no record ever names what is not there.
    What a driver that died had not deleted is deleted by the next one.

    Args:
        keep: of how many of the best, and of the supernets, at least 1.
        keep_all: the strategy's later trials may need any of them, and a raised budget may bring later trials.
        once: but not those with which a trial of a higher fidelity went on; of the highest only the best.
    """

    def __init__(
        self, store: Store, table: TrialTable, journal: Journal, *, keep: int, keep_all: bool, once: bool = False
    ) -> None:
        self.keep = keep
        self._store = store
        self._table = table
        self._journal = journal
        self._keep_all = keep_all
        self._once = once
        self._queue: deque[str] = deque(table.discarded)
        self._task: asyncio.Task[None] | None = None
        self._work()

    def look(self) -> None:
        """A result came in: say what nobody needs any more, and delete it when that is durable."""
        table = self._table
        if self._keep_all and not self._once:
            return
        needed = set[str | None]()
        for row in (*table.best[: self.keep], *table.pareto):
            needed |= {row.artifacts.get("checkpoint"), row.input}
        supernets = [key for key, rows in table.weights.items() if rows[0].kind is TrialKind.SUPERNET]
        needed |= set(supernets[-self.keep :] if table.ended is not None else supernets)
        if table.exported is not None and (exported := table.rows.get(table.exported.number)) is not None:
            needed |= {exported.artifacts.get("checkpoint"), exported.input}
        doomed = {key for key in (table.final if self._once else table.weights) if key not in needed}
        doomed |= table.superseded if self._once else set()
        self._discard([key for key in sorted(doomed) if not table.needed[key]])

    def _discard(self, doomed: list[str]) -> None:
        if doomed:
            self._journal.write(r.Discarded(keys=doomed))
            self._journal.when_durable(lambda: self._delete(doomed))

    async def close(self) -> None:
        """Wait a moment for what is being deleted."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)
            self._task.cancel()

    def _delete(self, keys: Iterable[str]) -> None:
        self._queue.extend(keys)
        self._work()

    def _work(self) -> None:
        if self._queue and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._queue:
            key = self._queue.popleft()
            try:
                await asyncio.to_thread(delete_directory, self._store, key)
            except StoreError as error:
                logger.warning("the weights %s could not be deleted: %s", key, error)


def delete_directory(store: Store, prefix: str) -> None:
    """Delete everything below `prefix`, the manifest first, so that nothing half-deleted seems whole.

    Raises:
        StoreError: the store refuses or does not answer.
    """
    keys = [info.key for info in store.list(f"{prefix}/")]
    manifest = f"{prefix}/{MANIFEST}"
    if manifest in keys:
        store.delete([manifest])
    if rest := [key for key in keys if key != manifest]:
        store.delete(rest)
