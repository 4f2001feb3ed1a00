"""Trials that all workers of one Job run together: who asks for one, who has his part of it, who has gone.

A trial is granted when every rank of a Job asks. All ranks have the same lease, and each says for itself that it lives
and how it ended. An attempt ends as a whole: when rank 0 hands in the result, when any rank fails, is lost or is not
heard of. A rank that only lost touch with the others does not say why: the one that began it has a moment to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from archsearch.protocol import FailureClass, Grant, LeaseRequest, Member, Outcome, TrialKind, TrialState
from archsearch_strategies.driver.rows import Row

MARGIN_SECONDS = 2.0  # between two polls of a worker that waits
CLARIFY_SECONDS = 10.0  # after a rank lost touch: until then another, or the launcher, may say why
REPORT_SECONDS = 2.0  # how soon the other ranks learn at the latest that the attempt is over
IDLE_SECONDS = 10.0  # a Job without a trial for so long is dismissed
PATIENCE_SECONDS = 3600.0  # a rank waits so long before it goes by itself: all go together, when they are told
_SILENT_REPORTS = 3  # so many missing reports make a rank the suspect


@dataclass
class _Attempt:
    """One lease of one row."""

    job: str
    ranks: int
    heard: dict[int, float]  # when each rank at work was last heard of
    workers: dict[int, str] = field(default_factory=dict)  # not known of a lease that an earlier driver gave
    parts: dict[int, Grant] = field(default_factory=dict)  # not fetched yet
    gone: dict[int, Outcome] = field(default_factory=dict)  # how ranks ended that do not end the attempt
    clarified_at: float = float("inf")  # when it ends without another word


class Groups:
    """The part of the lease book that knows of ranks. Decides nothing about rows: it says how an attempt ended.

    Args:
        nodes: ranks of a supernet trial; 1: none is joint.
        per_job: trials after which a Job is dismissed; 0: it goes on.
        now: a monotonic clock in seconds.
    """

    def __init__(self, nodes: int, per_job: int, lease_seconds: float, now: Callable[[], float]) -> None:
        self._nodes = nodes
        self._per_job = per_job
        self._lease_seconds = lease_seconds
        self._now = now
        self._asking: dict[str, dict[int, tuple[LeaseRequest, float]]] = {}  # by job and rank; until when it counts
        self._attempts: dict[Row, _Attempt] = {}
        self._open: set[Row] = set()  # offered, and not finished
        self._served: Counter[str] = Counter()  # finished trials by job
        self._idle_since: dict[str, float] = {}
        self._dismissed: set[str] = set()

    def is_joint(self, row: Row) -> bool:
        """Whether several workers run it."""
        return self._nodes > 1 and row.kind is TrialKind.SUPERNET

    @property
    def report_seconds(self) -> float:
        return min(REPORT_SECONDS, self._lease_seconds / 6)

    def expect(self, row: Row) -> None:
        """A row is offered."""
        self._open.add(row)

    # --- granting

    def dismisses(self, request: LeaseRequest) -> bool:
        """Whether a Job's workers shall go: one that went alone would leave the others waiting for it for ever."""
        job, now = request.job, self._now()
        if self._open:
            self._idle_since.clear()
        elif now - self._idle_since.setdefault(job, now) >= IDLE_SECONDS:
            self._dismissed.add(job)
        if self._per_job and self._served[job] >= self._per_job:
            self._dismissed.add(job)
        return job in self._dismissed

    def asks(self, request: LeaseRequest) -> None:
        until = self._now() + request.wait_seconds + MARGIN_SECONDS
        self._asking.setdefault(request.job, {})[request.rank] = (request, until)

    def part(self, request: LeaseRequest) -> Grant | None:
        """The part of a granted trial that is kept for exactly this worker."""
        for attempt in self._of_job(request.job):
            if attempt.workers.get(request.rank) == request.worker and request.rank in attempt.parts:
                self._asking[request.job].pop(request.rank, None)
                return attempt.parts.pop(request.rank)
        return None

    def deserted(self, request: LeaseRequest) -> list[Row]:
        """Trials that count on this rank, which asks for another: it is a new process, or never got its part."""
        return [
            row
            for row, attempt in self._attempts.items()
            if attempt.job == request.job and request.rank in attempt.heard
        ]

    def ready(self, request: LeaseRequest) -> list[LeaseRequest]:
        """What every rank of a Job asked, rank 0 first, where all are waiting for a trial; else nothing."""
        asking, now = self._asking.get(request.job, {}), self._now()
        waiting = [asked for rank, (asked, until) in sorted(asking.items()) if until > now]
        complete = [asked.rank for asked in waiting] == list(range(self._nodes)) and request.ranks == self._nodes
        return waiting if complete and not any(self._of_job(request.job)) else []

    def begin(self, row: Row, grant: Grant, asked: Iterable[LeaseRequest]) -> None:
        """Rank 0's grant was made: keep each rank's part until it is fetched."""
        requests = {request.rank: request for request in asked}
        first, fence = requests[0], grant.fence
        attempt = _Attempt(
            first.job,
            self._nodes,
            dict.fromkeys(requests, self._now()),
            workers={rank: request.worker for rank, request in requests.items()},
        )
        for rank in requests:
            member = Member(
                rank=rank,
                ranks=self._nodes,
                master_address=first.address,
                master_port=first.port,
                attempt=f"{fence.epoch}-{fence.counter}",
            )
            update = {"member": member, "report_seconds": self.report_seconds}
            attempt.parts[rank] = grant.model_copy(update=update)
        self._attempts[row] = attempt

    def adopt(self, row: Row) -> None:
        """A lease of an earlier driver: every rank has a lease time to be heard."""
        job = row.lease.job if row.lease is not None else ""
        self._attempts[row] = _Attempt(job, self._nodes, dict.fromkeys(range(self._nodes), self._now()))
        self._open.add(row)

    # --- how it goes

    def heard(self, row: Row, rank: int) -> float:
        """A rank lives; gives back when the attempt ends if nothing more is heard."""
        attempt = self._attempts[row]
        if rank in attempt.heard:
            attempt.heard[rank] = self._now()
        return self.deadline(row)

    def deadline(self, row: Row) -> float:
        attempt = self._attempts[row]
        return min(attempt.clarified_at, *(heard + self._lease_seconds for heard in attempt.heard.values()))

    def handed(self, row: Row, rank: int, outcome: Outcome) -> Outcome | None:
        """A rank's result: what it means for the attempt, or None where others have a say yet."""
        attempt = self._attempts[row]
        attempt.heard.pop(rank, None)
        attempt.parts.pop(rank, None)
        if outcome.state is TrialState.FAILED:
            told = outcome.model_copy(update={"message": f"rank {rank} of {attempt.ranks}: {outcome.message}"})
            return _of_all(told, attempt.ranks)
        released = outcome.state is TrialState.PENDING and outcome.failure is FailureClass.PREEMPTED
        if rank == 0 and (released or outcome.state is not TrialState.PENDING):
            return _of_all(outcome, attempt.ranks)
        attempt.gone[rank] = outcome
        if outcome.state is TrialState.PENDING:
            attempt.clarified_at = min(attempt.clarified_at, self._now() + CLARIFY_SECONDS)
        return None if attempt.heard else self.verdict(row)

    def verdict(self, row: Row) -> Outcome:
        """How an attempt ended of which nobody says more."""
        attempt, now = self._attempts[row], self._now()
        unfinished = {rank: each for rank, each in attempt.gone.items() if each.state is TrialState.PENDING}
        for each in unfinished.values():
            if each.failure is FailureClass.PREEMPTED:
                return _of_all(each, attempt.ranks)
        silent = min(self._lease_seconds, _SILENT_REPORTS * self.report_seconds)
        for rank, heard in attempt.heard.items():
            if now - heard >= silent:
                worker = f" ({attempt.workers[rank]})" if rank in attempt.workers else ""
                message = f"nothing was heard of rank {rank}{worker} of {attempt.ranks} for {now - heard:.0f} s"
                return Outcome(state=TrialState.PENDING, failure=FailureClass.PREEMPTED, message=message)
        told = next(iter(unfinished.values()), None)
        message = told.message if told is not None else "rank 0 ended without a result"
        failed = Outcome(state=TrialState.FAILED, failure=FailureClass.INFRASTRUCTURE, message=message)
        return _of_all(failed.model_copy(update={"resources": told.resources}) if told else failed, attempt.ranks)

    def lost(self, job: str, worker: str) -> None:
        """A worker ended: it does not ask any more."""
        asking = self._asking.get(job, {})
        for rank in [rank for rank, (request, _) in asking.items() if request.worker == worker]:
            del asking[rank]

    def includes(self, row: Row, worker: str) -> bool:
        """Whether a lost worker had a part in this attempt; so it is taken where that is not known."""
        attempt = self._attempts.get(row)
        return attempt is None or not worker or not attempt.workers or worker in attempt.workers.values()

    def end(self, row: Row, *, finished: bool) -> None:
        """The attempt is over."""
        attempt = self._attempts.pop(row, None)
        if finished:
            self._open.discard(row)
            if attempt is not None:
                self._served[attempt.job] += 1

    def _of_job(self, job: str) -> list[_Attempt]:
        return [attempt for attempt in self._attempts.values() if attempt.job == job]


def _of_all(outcome: Outcome, ranks: int) -> Outcome:
    """CPU and GPU seconds of all ranks, which run side by side for the same time; the rest is of the one that told."""
    own = outcome.resources
    whole = own.model_copy(update={"cpu_seconds": own.cpu_seconds * ranks, "gpu_seconds": own.gpu_seconds * ranks})
    return outcome.model_copy(update={"resources": whole})
