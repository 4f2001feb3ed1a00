"""Who has which trial: the leases, and what becomes of an attempt. No HTTP in here."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

from archsearch.errors import ArchsearchError
from archsearch.protocol import (
    Assignment,
    FailureClass,
    Fence,
    Grant,
    LeaseRequest,
    Outcome,
    ReportReply,
    ReportRequest,
    ResultRequest,
    TrialState,
)
from archsearch.spec.experiment import Constraint, Objective
from archsearch.spec.pods import Retries
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.retry import delay_seconds, may_retry
from archsearch_strategies.driver.rows import Lease, Row
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.launch.base import WorkerLost
from archsearch_strategies.lease.groups import Groups
from archsearch_strategies.lease.judgement import judged
from archsearch_strategies.lease.queues import Queues
from archsearch_strategies.lease.turns import Turns

LEASE_SECONDS = 30.0
REPORTS_PER_LEASE = 6  # so many reports may get lost before the lease is
MESSAGE_LENGTH = 4096


class LeaseLost(ArchsearchError):
    """The lease is not this worker's any more: the trial was leased again, or the run knows nothing of it."""


class Writer(Protocol):
    """What the book needs of a journal."""

    def write(self, record: r.Record) -> None: ...

    async def settled(self) -> None: ...


@dataclass
class BookSettings:
    epoch: int
    retries: Retries
    objectives: tuple[Objective, ...]
    parallelism: int
    constraints: tuple[Constraint, ...] = ()
    lease_seconds: float = LEASE_SECONDS
    nodes: int = 1  # workers of one supernet trial
    per_job: int = 0  # joint trials of one Job; 0: as many as there are


class Rule(Protocol):
    """What the book needs of a stopping rule, which sees the reports in the table."""

    name: ClassVar[str]

    def reason(self, row: Row) -> str:
        """Why the trial of the newest report should end; empty: it should go on."""


class LeaseBook:
    """All leases of one driver.

    Methods are called on the event loop and never wait, but for `result` (the ledger) and `turn`.

    Args:
        assign: makes a row's assignment.
        finished: called with each row that got its result, or that is to be settled by the caller (describe, export).
        now: a monotonic clock in seconds; leases expire by it.
        wall: seconds since the epoch, for the records.
    """

    def __init__(
        self,
        settings: BookSettings,
        table: TrialTable,
        journal: Writer,
        *,
        assign: Callable[[Row], Assignment],
        finished: Callable[[Row], None],
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.paused = False  # nothing is granted, and reports are answered with release
        self.ended = False  # the search is: its trials are neither granted nor taken any more, but all others
        self.over = False  # nothing will ever be granted again
        self.expired = 0  # leases that ran out
        self._table = table
        self._journal = journal
        self._assign = assign
        self._finished = finished
        self._now = now
        self._wall = wall
        self._counter = 0
        self._queues = Queues(now)
        self._groups = Groups(settings.nodes, settings.per_job, settings.lease_seconds, now)
        self._live: dict[Row, float] = {}  # leased rows and when their lease runs out
        self._controls: dict[str, Row] = {}  # leases of describe and export
        self._turns = Turns(all_at_once=settings.nodes > 1)
        self.observe_wait: Callable[[float], None] = lambda seconds: None
        self.granted: Callable[[], None] = lambda: None
        self.rule: Rule | None = None  # may stop trials, as far as their reports go

    @property
    def live(self) -> int:
        return len(self._live)

    def adopt_leases(self, *, workers_died: bool) -> None:
        """After a restart: what was out stays with its worker for one lease time, in which a heartbeat claims it back.

        Args:
            workers_died: the workers ended with the driver before this one, so there is nothing to wait for.
        """
        for row in [row for row in self._table.rows.values() if row.state is TrialState.RUNNING]:
            self._live[row] = self._now() + self.settings.lease_seconds
            if self._groups.is_joint(row):
                self._groups.adopt(row)
            if workers_died:
                message = "the worker ended with its driver"
                self._end_attempt(
                    row, Outcome(state=TrialState.PENDING, failure=FailureClass.PREEMPTED, message=message)
                )

    def offer(self, row: Row, *, first: bool = False, delay: float = 0.0) -> None:
        """Put a pending row into the queue. Its submission must be durable."""
        if delay > 0:
            self._queues.later(delay, partial(self.offer, row, first=first))
            return
        if joint := self._groups.is_joint(row):
            self._groups.expect(row)
        self._queues.put(row, first=first, joint=joint)
        self.wake()

    def grant(self, request: LeaseRequest) -> Grant | None:
        """Lease the next row to this worker; None where there is none, or enough are out.

        One of several workers gets its part of a trial when all of them ask.
        """
        if request.ranks > 1:
            return self._grant_part(request)
        row = None if self.paused or self.over else self._take()
        return None if row is None else self._lease(row, request)

    def dismisses(self, request: LeaseRequest) -> bool:
        """Whether a worker shall go although there may be trials: suspended, or all of its Job have served."""
        return self.paused or (request.ranks > 1 and self._groups.dismisses(request))

    def _grant_part(self, request: LeaseRequest) -> Grant | None:
        groups = self._groups
        groups.asks(request)
        if (part := groups.part(request)) is not None:
            return part
        for left in groups.deserted(request):
            message = f"rank {request.rank} of {request.ranks} ({request.worker}) has lost its part of the trial"
            self._end_attempt(left, Outcome(state=TrialState.PENDING, failure=FailureClass.PREEMPTED, message=message))
        asked = [] if self.paused or self.over else groups.ready(request)
        row = self._take(joint=True) if asked else None
        if row is None:
            return None
        groups.begin(row, self._lease(row, asked[0]), asked)
        self.wake()
        return groups.part(request)

    def _lease(self, row: Row, request: LeaseRequest) -> Grant:
        secret = secrets.token_urlsafe(24)
        self._counter += 1
        lease = Lease(
            _digest(secret), row.attempts + 1, self.settings.epoch, self._counter, request.worker, request.job
        )
        assignment = self._assign(row).model_copy(update={"attempt": lease.attempt})
        if row.number is None:
            row.lease, row.attempts, row.state = lease, lease.attempt, TrialState.RUNNING
            self._controls[lease.digest] = row
        else:
            self._journal.write(
                r.Leased(
                    number=row.number,
                    attempt=lease.attempt,
                    lease=lease.digest,
                    epoch=lease.epoch,
                    counter=lease.counter,
                    worker=lease.worker,
                    job=lease.job,
                    time=self._wall(),
                )
            )
        self._live[row] = self._now() + self.settings.lease_seconds
        self.granted()
        return Grant(
            lease=secret,
            fence=Fence(epoch=lease.epoch, counter=lease.counter),
            lease_seconds=self.settings.lease_seconds,
            report_seconds=self._report_seconds(),
            assignment=assignment,
        )

    def _report_seconds(self) -> float:
        """A rule that stops trials wants to hear of them soon, if there are not very many."""
        longest = self.settings.lease_seconds / REPORTS_PER_LEASE
        return longest if self.rule is None else min(longest, max(1.0, self.settings.parallelism / 100))

    def report(self, request: ReportRequest) -> ReportReply:
        """Take metrics and heartbeat.

        Raises:
            LeaseLost: tell the worker to drop the trial.
        """
        row = self._find(request.lease, request.fence)
        if row is None:
            raise LeaseLost("this lease is not known here, or the trial was leased again")
        if row.finished or self._dropped(row):
            return ReportReply(action="stop")
        joint = self._groups.is_joint(row)
        if row not in self._live:
            if joint:
                raise LeaseLost("this attempt is over: another rank of the trial ended, or was lost")
            self._reclaim(row)
        self._live[row] = self._groups.heard(row, request.rank) if joint else self._now() + self.settings.lease_seconds
        if row.number is not None and (request.points or request.checkpoint):
            self._journal.write(
                r.Reported(number=row.number, points=list(request.points), checkpoint=request.checkpoint)
            )
            if self.rule is not None and not row.stop and (reason := self.rule.reason(row)):
                self._journal.write(r.Stopped(number=row.number, rule=self.rule.name, reason=reason))
        if row.stop:
            return ReportReply(action="stop")
        return ReportReply(action="release" if self.paused else "continue")

    async def result(self, request: ResultRequest) -> bool:
        """Take the end of an attempt; returns when it is durable.

        Returns:
            False: the trial was leased again meanwhile, or is not known; the result is dropped.

        Raises:
            Fenced, StoreError: it could not be made durable.
        """
        row = self._find(request.lease, request.fence)
        if row is None or (self._dropped(row) and not row.finished):
            return False
        if not row.finished and not self._was_returned(row, request):
            if row.number is not None and request.points:
                self._journal.write(r.Reported(number=row.number, points=list(request.points)))
            outcome: Outcome | None = request.outcome
            if row not in self._live:
                self._reclaim(row)
            elif self._groups.is_joint(row):
                outcome = self._groups.handed(row, request.rank, request.outcome)
            if outcome is not None:
                self._conclude(row, outcome)
            else:
                self._live[row] = self._groups.deadline(row)
        await self._journal.settled()
        return True

    def lost(self, worker: WorkerLost) -> None:
        """A worker ended without being done: what it had is returned at once, not when the lease runs out."""
        self._groups.lost(worker.job, worker.worker)
        for row in [row for row in self._live if row.lease is not None and row.lease.job == worker.job]:
            if self._dropped(row) or not self._groups.includes(row, worker.worker):
                continue
            self._end_attempt(row, Outcome(state=TrialState.FAILED, failure=worker.failure, message=worker.message))

    def expire(self) -> None:
        """Return the trials whose worker has not been heard of for a lease time."""
        now = self._now()
        for row in [row for row, deadline in self._live.items() if deadline <= now and not self._dropped(row)]:
            self.expired += 1
            if self._groups.is_joint(row):
                self._conclude(row, self._groups.verdict(row))
                continue
            worker = row.lease.worker if row.lease is not None else ""
            message = f"nothing was heard of worker {worker} for {self.settings.lease_seconds:.0f} s"
            self._end_attempt(row, Outcome(state=TrialState.PENDING, failure=FailureClass.PREEMPTED, message=message))

    @property
    def waiting(self) -> int:
        """Workers that wait in `turn`."""
        return len(self._turns)

    def wake(self, every: bool = False) -> None:
        """Let one waiting worker (or every one) look again; of those that run trials together always every one."""
        self._turns.wake(every)

    async def turn(self, seconds: float) -> None:
        """Wait until something may have come up, first come first served."""
        await self._turns.wait(seconds)

    def end_search(self) -> None:
        """The search is over: its trials are not leased any more, and those that run are told to stop."""
        self.ended = True
        for row in [row for row in self._live if _of_search(row)]:
            del self._live[row]
            self._groups.end(row, finished=True)
        self.wake(every=True)

    def close(self) -> None:
        """Nothing comes any more."""
        self.over = True
        self._queues.close()
        self.wake(every=True)

    def _take(self, *, joint: bool = False) -> Row | None:
        full = self._table.counts[TrialState.RUNNING] >= self.settings.parallelism
        found = self._queues.take(joint=joint, full=full, dropped=self._dropped)
        if found is None:
            return None
        row, waited = found
        self.observe_wait(waited)
        return row

    def _find(self, secret: str, fence: Fence) -> Row | None:
        digest = _digest(secret)
        row = self._table.by_lease.get(digest) or self._controls.get(digest)
        if row is None or row.lease is None or row.lease.digest != digest:
            return None
        return row if (row.lease.epoch, row.lease.counter) == (fence.epoch, fence.counter) else None

    def _dropped(self, row: Row) -> bool:
        return self.over or (self.ended and _of_search(row))

    def _was_returned(self, row: Row, request: ResultRequest) -> bool:
        """A release that comes a second time, its first reply lost; or of several ranks, not the one that ended it."""
        if row in self._live:
            return False
        state = request.outcome.state
        late = self._groups.is_joint(row) and (request.rank > 0 or state is TrialState.FAILED)
        return late or state is TrialState.PENDING

    def _reclaim(self, row: Row) -> None:
        if row.number is None:
            row.state = TrialState.RUNNING
        else:
            self._journal.write(r.Reclaimed(number=row.number, attempt=row.attempts))

    def _conclude(self, row: Row, outcome: Outcome) -> None:
        if outcome.state is TrialState.SUCCEEDED:
            outcome = judged(row, outcome, self.settings.objectives, self.settings.constraints)
        if outcome.state in (TrialState.PENDING, TrialState.FAILED):
            self._end_attempt(row, outcome)
        else:
            self._finish(row, outcome)

    def _end_attempt(self, row: Row, outcome: Outcome) -> None:
        """The attempt gave no result: try again where the class's budget allows, else the trial has failed.

        One that was told to stop is not tried again, if it has reported anything: it ends with that.
        """
        if row.stop and row.number is not None and row.points:
            reached = {name: value for point in row.points for name, value in point.metrics.items()}
            self._finish(row, Outcome(state=TrialState.PRUNED, metrics=reached, resources=outcome.resources))
            return
        preempted = outcome.state is TrialState.PENDING
        failure = FailureClass.PREEMPTED if preempted else outcome.failure or FailureClass.USER_ERROR
        if not may_retry(failure, row.failures, self.settings.retries):
            self._finish(row, outcome.model_copy(update={"failure": failure}))
            return
        delay = delay_seconds(failure, row.failures)
        self._live.pop(row, None)
        self._groups.end(row, finished=False)
        if row.number is None:
            row.failures[failure] += 1
            row.state = TrialState.PENDING
        else:
            self._journal.write(
                r.Returned(
                    number=row.number,
                    attempt=row.attempts,
                    failure=failure,
                    message=outcome.message[-MESSAGE_LENGTH:],
                    resources=outcome.resources,
                    time=self._wall(),
                )
            )
        self.offer(row, first=True, delay=delay)

    def _finish(self, row: Row, outcome: Outcome) -> None:
        self._live.pop(row, None)
        self._groups.end(row, finished=True)
        if outcome.state is TrialState.PRUNED and row.stop_reason and not outcome.message:
            outcome = outcome.model_copy(update={"message": row.stop_reason})
        if row.number is None:
            row.state, row.failure, row.message = outcome.state, outcome.failure, outcome.message
            row.payload, row.artifacts, row.metrics = outcome.payload, outcome.artifacts, outcome.metrics
        else:
            self._journal.write(
                r.Result(
                    number=row.number,
                    attempt=row.attempts,
                    state=outcome.state,
                    metrics=outcome.metrics,
                    failure=outcome.failure,
                    message=outcome.message[-MESSAGE_LENGTH:],
                    resources=outcome.resources,
                    artifacts=outcome.artifacts,
                    payload=outcome.payload,
                    time=self._wall(),
                )
            )
        self._finished(row)
        self.wake()  # a place became free


def _of_search(row: Row) -> bool:
    """Neither describe and export, nor what the driver adds after the search."""
    return row.number is not None and not row.added


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
