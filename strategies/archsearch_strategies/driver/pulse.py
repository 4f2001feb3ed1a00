"""What keeps a run going while something is waited for: workers, leases, suspension, status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from archsearch.errors import ArchsearchError
from archsearch.protocol import TrialKind
from archsearch.spec import reasons
from archsearch.spec.experiment import ExperimentSpec
from archsearch.spec.status import Verdict
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.bulletin import Bulletin
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.session import Session
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.launch.base import Launcher

FinalState = Literal["Succeeded", "Failed", "Suspended", "Stopped"]

TICK_SECONDS = 1.0


class Halt(Exception):
    """The run leaves in this state, and the next driver goes on."""

    def __init__(self, state: FinalState, message: str) -> None:
        self.state: FinalState = state
        super().__init__(message)


class Pulse:
    """Waits, and meanwhile acts on what changed: at each `notice`, and once a second.

    Args:
        spec: gives the spec as it is now.
        session: gives ledger and leases; not called before `until`.
        failure: what the run cannot go on after; None where there is nothing.
        until_suspended: a suspended experiment ends the wait, instead of waiting to be resumed.
        wall: seconds since the epoch, for the records.
    """

    def __init__(
        self,
        table: TrialTable,
        launcher: Launcher,
        bulletin: Bulletin,
        *,
        spec: Callable[[], ExperimentSpec],
        session: Callable[[], Session],
        failure: Callable[[], ArchsearchError | None],
        until_suspended: bool,
        wall: Callable[[], float],
    ) -> None:
        self.searching = False  # the strategy's trials want workers
        self.stop_asked = False
        self._table = table
        self._launcher = launcher
        self._bulletin = bulletin
        self._spec = spec
        self._session = session
        self._failure = failure
        self._until_suspended = until_suspended
        self._wall = wall
        self._changed = asyncio.Event()
        self._controls: set[Row] = set()  # describe, profile and export, while they are wanted

    def notice(self) -> None:
        """Something happened that `until` may have to act on."""
        self._bulletin.changed = True
        self._changed.set()

    def tell(self, last: bool = False) -> None:
        """Let the bulletin tell, if there is news."""
        self._bulletin.max_trials = self._spec().budget.max_trials
        self._bulletin.tell(self._launcher.alive(), last=last)

    async def control(self, row: Row) -> Row:
        """Have a worker do what has no number, and wait for it."""
        await self.control_all([row])
        return row

    async def control_all(self, rows: list[Row]) -> None:
        """The same for several."""
        self._controls.update(rows)
        for row in rows:
            self._session().book.offer(row)
        try:
            await self.until(lambda: all(row.finished for row in rows))
        finally:
            self._controls.difference_update(rows)

    async def until(self, done: Callable[[], bool]) -> None:
        """Keep everything going until `done`, looked at after each change and once a second.

        Raises:
            Halt: asked to stop, or suspended.
            ArchsearchError: what `failure` gave.
        """
        expired_at = 0.0
        while True:
            self._changed.clear()
            if (failure := self._failure()) is not None:
                raise failure
            if self.stop_asked:
                raise Halt("Stopped", "stopped; the same command goes on")
            self._follow_suspend()
            if not self._table.suspended and done():
                return
            now = time.monotonic()
            if now - expired_at >= TICK_SECONDS:
                expired_at = now
                self._session().book.expire()
            self._launcher.ensure(*self._wanted())
            self.tell()
            try:
                await asyncio.wait_for(self._changed.wait(), TICK_SECONDS)
            except TimeoutError:
                self._bulletin.changed = True

    def _wanted(self) -> tuple[int, ...]:
        """Workers that have something to do; after them groups of workers, where trials run in several pods."""
        spec = self._spec()
        if spec.suspend:
            return (0,)
        parallel, unfinished = spec.parallel_trials, self._table.unfinished
        if not self.searching:
            again = sum(not row.finished for row in self._table.retraining)
            waiting = sum(not row.finished for row in self._controls)
            return (min(parallel, waiting + again),)
        if spec.trials.nodes == 1:
            return (min(parallel, unfinished),)
        joint = sum(row.kind is TrialKind.SUPERNET and not row.finished for row in self._table.rows.values())
        return min(parallel, unfinished - joint), min(parallel, joint)

    def _follow_suspend(self) -> None:
        session, suspend = self._session(), self._spec().suspend
        if suspend != self._table.suspended:
            session.journal.write((r.Suspended if suspend else r.Resumed)(time=self._wall()))
            session.book.wake(every=True)
            state, reason = ("Suspended", reasons.SUSPENDED) if suspend else ("Running", reasons.SEARCHING)
            verdict = Verdict.model_validate(
                {"accepted": self._bulletin.verdict.accepted, "state": state, "reason": reason}
            )
            self._bulletin.judge(verdict)
        session.book.paused = suspend
        if suspend and self._until_suspended and session.book.live == 0:
            raise Halt("Suspended", "spec.suspend is true; set it to false and run again to go on")
