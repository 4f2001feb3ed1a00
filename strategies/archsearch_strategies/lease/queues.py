"""Trials that wait for a worker, in the order in which they are leased."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from archsearch.protocol import TrialState
from archsearch_strategies.driver.rows import Row

_Queue = deque[tuple[Row, float]]  # (row, when it was put there)


class Queues:
    """What goes first (controls, and what was given back), the other trials, and those for several workers together.

    Args:
        now: a monotonic clock in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._first: _Queue = deque()
        self._trials: _Queue = deque()
        self._joint: _Queue = deque()
        self._timers: set[asyncio.TimerHandle] = set()

    def put(self, row: Row, *, first: bool, joint: bool) -> None:
        """Have a pending row wait, before the others of its kind if it goes first."""
        if joint:
            add = self._joint.appendleft if first else self._joint.append
        else:
            add = self._first.append if first or row.number is None else self._trials.append
        add((row, self._now()))

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` after so long, if `close` does not come before."""
        loop = asyncio.get_running_loop()
        self._timers = {timer for timer in self._timers if timer.when() > loop.time()}
        self._timers.add(loop.call_later(seconds, action))

    def take(self, *, joint: bool, full: bool, dropped: Callable[[Row], bool]) -> tuple[Row, float] | None:
        """The next row and how many seconds it waited.

        Args:
            joint: of those for several workers together, else of the others.
            full: as many trials run as may: only controls are taken.
            dropped: which rows are not wanted any more; they are forgotten, and so are those that no longer wait.
        """
        for queue in (self._joint,) if joint else (self._first, self._trials):
            for _ in range(len(queue)):
                row, since = queue.popleft()
                if row.state is not TrialState.PENDING or dropped(row):
                    continue  # claimed back, or its result came late
                if full and row.number is not None:
                    queue.appendleft((row, since))
                    break
                return row, self._now() - since
        return None

    def close(self) -> None:
        """Nothing is called any more."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
