"""The driver's parts with memory for a ledger and a simulated clock for an event loop."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from archsearch.errors import ArchsearchError
from archsearch.protocol import Assignment
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.journal import Journal
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.search import Search
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.lease.book import BookSettings, LeaseBook
from archsearch_strategies.strategy import StrategyError

T = TypeVar("T")


class Clock:
    """Simulated seconds, and what is to happen; of two events of one time the one that was planned first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Plan an event; one in the past happens now."""
        self._planned += 1
        heapq.heappush(self._events, (max(time, self.now), self._planned, event))

    @property
    def next(self) -> float | None:
        """The time of the next event."""
        return self._events[0][0] if self._events else None

    def advance(self) -> None:
        """Go to the next event and let it happen."""
        self.now, _, event = heapq.heappop(self._events)
        event()


class MemoryJournal(Journal):
    """Applied at once, and durable at once.

    Args:
        written: called with each record after it is applied.
    """

    def __init__(self, table: TrialTable, written: Callable[[r.Record], None]) -> None:
        self._table = table
        self._written = written

    def write(self, record: r.Record) -> None:
        self._table.apply(record)
        self._written(record)

    def when_durable(self, callback: Callable[[], None]) -> None:
        callback()

    def flush(self) -> None:
        pass

    async def settled(self) -> None:
        pass


class SimulatedBook(LeaseBook):
    """A lease book whose delays run on the simulated clock."""

    def __init__(
        self,
        settings: BookSettings,
        table: TrialTable,
        journal: MemoryJournal,
        clock: Clock,
        *,
        assign: Callable[[Row], Assignment],
        finished: Callable[[Row], None],
    ) -> None:
        super().__init__(
            settings,
            table,
            journal,
            assign=assign,
            finished=finished,
            now=lambda: clock.now,
            wall=lambda: clock.now,
        )
        self._clock = clock

    def offer(self, row: Row, *, first: bool = False, delay: float = 0.0) -> None:
        if delay > 0:
            self._clock.at(self._clock.now + delay, lambda: self._offer_later(row, first))
        else:
            super().offer(row, first=first)

    def _offer_later(self, row: Row, first: bool) -> None:
        if not self.over:
            super().offer(row, first=first)


class SimulatedSearch(Search):
    """A search whose strategy's computations take no simulated time."""

    def _compute(self) -> None:
        while (wanted := self.run.computing) is not None:
            try:
                value = json.loads(json.dumps(wanted.compute(), allow_nan=False))
            except ArchsearchError:
                raise
            except Exception as error:
                raise StrategyError(f"a computation of the strategy raised {type(error).__name__}: {error}") from error
            self.run.answer(value)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits for something; in memory nothing does")
