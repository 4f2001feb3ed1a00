"""The way from a decision to the ledger: applied at once, durable a moment later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from archsearch.spec.base import JsonObject
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.ledger import Ledger


class Journal:
    """Writes records on the event loop.

    All of one step of the loop stand in one commit, so that a result, its handing over and what the strategy asks for
    next become durable together.
    """

    def __init__(self, ledger: Ledger, table: TrialTable) -> None:
        self._ledger = ledger
        self._table = table
        self._buffer: list[JsonObject] = []
        self._callbacks: list[Callable[[], None]] = []
        self._last: asyncio.Future[None] | None = None

    def write(self, record: r.Record) -> None:
        """Apply the record to the table and put it into the next commit.

        Raises:
            Fenced, StoreError: nothing can be written any more (seen by this call, a later one, or `settled`).
        """
        if self._ledger.failure is not None:
            raise self._ledger.failure
        self._table.apply(record)
        if not self._buffer:
            asyncio.get_running_loop().call_soon(self._flush_quietly)
        self._buffer.append(record.to_json())

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call back once everything written so far is durable; never, if it cannot be."""
        if self._buffer:
            self._callbacks.append(callback)
        elif self._last is None or self._last.done():
            callback()
        else:
            self._last.add_done_callback(lambda done: _if_durable(done, [callback]))

    def flush(self) -> None:
        """Start the commit of what is written now, not at the end of this step of the loop."""
        self._flush()

    async def settled(self) -> None:
        """Wait until everything written so far is durable. Raises Fenced or StoreError."""
        self._flush()
        if self._last is not None:
            await asyncio.shield(self._last)

    def _flush(self) -> None:
        if not self._buffer:
            return
        buffer, self._buffer = self._buffer, []
        callbacks, self._callbacks = self._callbacks, []
        self._last = self._ledger.append(*buffer)
        if callbacks:
            self._last.add_done_callback(lambda done: _if_durable(done, callbacks))

    def _flush_quietly(self) -> None:
        if self._ledger.failure is None:  # whoever waits for the ledger's failure ends the run
            self._flush()


def _if_durable(done: asyncio.Future[None], callbacks: list[Callable[[], None]]) -> None:
    if not done.cancelled() and done.exception() is None:
        for callback in callbacks:
            callback()
