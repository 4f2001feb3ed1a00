"""The lease book with trials that several workers of one Job run together; no HTTP, no processes, the test's clock."""

from __future__ import annotations

import pytest

from archsearch.protocol import (
    Assignment,
    FailureClass,
    Grant,
    LeaseRequest,
    MetricPoint,
    Outcome,
    ReportRequest,
    Resources,
    ResultRequest,
    StorageRef,
    TrialKind,
    TrialState,
)
from archsearch.spec.experiment import EvaluatorSpec, ModelSpace, Objective, ZooSpace
from archsearch.spec.pods import Retries
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.launch.base import WorkerLost
from archsearch_strategies.lease.book import BookSettings, LeaseBook, LeaseLost

OBJECTIVE = Objective(metric="accuracy")
OUT_OF_TOUCH = Outcome(state=TrialState.PENDING, failure=FailureClass.INFRASTRUCTURE, message="connection closed")
RELEASED = Outcome(state=TrialState.PENDING, failure=FailureClass.PREEMPTED, message="given back")
DONE = Outcome(state=TrialState.SUCCEEDED, resources=Resources(gpu_seconds=3.0, cpu_seconds=4.0, wall_seconds=5.0))
CRASHED = Outcome(state=TrialState.FAILED, failure=FailureClass.USER_ERROR, message="ValueError: no")


class Desk:
    """A book over a table, and a clock. `restart` is a new driver over what the old one recorded."""

    def __init__(self, nodes: int = 2, parallelism: int = 2, per_job: int = 0) -> None:
        self.now = 100.0
        self.nodes, self.parallelism, self.per_job = nodes, parallelism, per_job
        self.table = TrialTable([OBJECTIVE])
        self.records: list[r.Record] = []
        self.finished: list[Row] = []
        self.book = self._book(1)

    def _book(self, epoch: int) -> LeaseBook:
        settings = BookSettings(
            epoch, Retries(), (OBJECTIVE,), self.parallelism, lease_seconds=30.0, nodes=self.nodes, per_job=self.per_job
        )
        return LeaseBook(
            settings,
            self.table,
            self,
            assign=self._assign,
            finished=self.finished.append,
            now=lambda: self.now,
            wall=lambda: self.now,
        )

    def write(self, record: r.Record) -> None:
        self.records.append(record)
        self.table.apply(record)

    async def settled(self) -> None:
        pass

    def _assign(self, row: Row) -> Assignment:
        return Assignment(
            experiment="e",
            kind=row.kind,
            number=row.number,
            folder=f"trials/{row.number}",
            model_space=ModelSpace(zoo=ZooSpace(name="nasbench201")),
            evaluator=EvaluatorSpec(name="classification"),
            objectives=[OBJECTIVE],
            storage=StorageRef(uri="file:///nowhere"),
        )

    def submit(self, number: int = 1, kind: TrialKind = TrialKind.SUPERNET) -> Row:
        self.write(
            r.Submitted(number=number, kind=kind, architecture=None, hash="", params={}, replicate=number, seed=0)
        )
        self.book.offer(self.table.rows[number])
        return self.table.rows[number]

    def ask(self, rank: int, worker: str = "", job: str = "g", wait: float = 0.0) -> Grant | None:
        return self.book.grant(
            LeaseRequest(
                version="1",
                worker=worker or f"{job}-{rank}",
                job=job,
                rank=rank,
                ranks=self.nodes,
                wait_seconds=wait,
                address=f"10.0.0.{rank}",
                port=8473,
            )
        )

    def grant(self, job: str = "g") -> list[Grant]:
        """Each rank's part, asked for in turn; the last that asks is the one that completes them."""
        *early, last = range(self.nodes)
        for rank in early:
            assert self.ask(rank, job=job, wait=5.0) is None
        final = self.ask(last, job=job)
        parts = [self.ask(rank, job=job) for rank in early]
        assert final is not None
        assert None not in parts
        return [*(part for part in parts if part is not None), final]

    def report(self, part: Grant, points: tuple[MetricPoint, ...] = ()) -> str:
        assert part.member is not None
        return self.book.report(
            ReportRequest(lease=part.lease, fence=part.fence, rank=part.member.rank, points=list(points))
        ).action

    async def result(self, part: Grant, outcome: Outcome) -> bool:
        assert part.member is not None
        return await self.book.result(
            ResultRequest(lease=part.lease, fence=part.fence, rank=part.member.rank, outcome=outcome)
        )

    def restart(self) -> None:
        self.book.close()
        self.book = self._book(2)
        self.book.adopt_leases(workers_died=False)


def state(row: Row) -> TrialState:
    """So that the type checker does not take it for unchanged."""
    return row.state


async def test_a_trial_is_granted_when_all_ask_and_each_gets_its_part() -> None:
    desk = Desk(nodes=3)
    row = desk.submit()
    parts = desk.grant()
    members = [part.member for part in parts]
    assert [member.rank for member in members if member] == [0, 1, 2]
    assert {(member.ranks, member.master_address, member.master_port) for member in members if member} == {
        (3, "10.0.0.0", 8473)
    }
    assert {(part.lease, part.fence.counter) for part in parts} == {(parts[0].lease, 1)}
    assert (row.state, row.attempts) == (TrialState.RUNNING, 1)
    assert row.lease is not None
    assert (row.lease.worker, row.lease.job) == ("g-0", "g")


async def test_single_workers_and_groups_get_their_own_kinds() -> None:
    desk = Desk()
    desk.submit(1, TrialKind.INHERIT)
    desk.submit(2)
    single = desk.book.grant(LeaseRequest(version="1", worker="w", job="w"))
    assert single is not None
    assert (single.assignment.number, single.member) == (1, None)
    assert desk.book.grant(LeaseRequest(version="1", worker="w", job="w")) is None
    assert [part.assignment.number for part in desk.grant()] == [2, 2]
    assert desk.book.grant(LeaseRequest(version="1", worker="w", job="w")) is None


async def test_parallel_trials_bounds_groups_too() -> None:
    desk = Desk(parallelism=1)
    desk.submit(1)
    desk.submit(2)
    desk.grant("g")
    assert [desk.ask(rank, job="h") for rank in (0, 1)] == [None, None]


async def test_a_rank_that_asked_long_ago_does_not_count() -> None:
    desk = Desk()
    desk.submit()
    assert desk.ask(0) is None
    desk.now += 60
    assert desk.ask(1) is None
    assert desk.ask(0) is not None


async def test_two_jobs_do_not_mix() -> None:
    desk = Desk()
    desk.submit()
    assert desk.ask(0, job="g") is None
    assert desk.ask(1, job="h") is None


async def test_a_job_is_dismissed_as_a_whole_when_there_is_nothing_more_for_it() -> None:
    desk = Desk()
    asked = [LeaseRequest(version="1", worker=f"g-{rank}", job="g", rank=rank, ranks=2) for rank in (0, 1)]
    row = desk.submit()
    assert not desk.book.dismisses(asked[0])
    desk.now += 1000  # the other pod is not there yet
    assert not desk.book.dismisses(asked[0])
    parts = desk.grant()
    await desk.result(parts[0], DONE)
    assert state(row) is TrialState.SUCCEEDED
    assert not desk.book.dismisses(asked[0]), "the next trial may come at once"
    desk.now += 9
    assert not desk.book.dismisses(asked[1])
    desk.now += 2
    assert desk.book.dismisses(asked[0])
    desk.submit(2)
    assert desk.book.dismisses(asked[1]), "rank 0 has gone, and never comes back"
    assert not desk.book.dismisses(asked[1].model_copy(update={"job": "h"}))


async def test_a_job_serves_as_many_trials_as_it_may() -> None:
    desk = Desk(per_job=1)
    desk.submit(1)
    desk.submit(2)
    desk.grant()
    asked = LeaseRequest(version="1", worker="g-1", job="g", rank=1, ranks=2)
    desk.book.lost(WorkerLost("g", FailureClass.PREEMPTED, "gone", worker="g-1"))
    assert not desk.book.dismisses(asked), "an attempt is no trial"
    parts = desk.grant()
    assert {part.assignment.number for part in parts} == {1}, "what was given back comes first"
    await desk.result(parts[0], DONE)
    assert desk.book.dismisses(asked)


async def test_a_rank_replaced_before_it_got_its_part_ends_the_attempt() -> None:
    """Its address may be another: nobody may wait for the old one."""
    desk = Desk()
    row = desk.submit()
    assert desk.ask(0) is None
    follower = desk.ask(1)
    assert follower is not None  # and rank 0 died before it asked again
    assert desk.ask(0, worker="g-0-again") is None
    assert (row.state, row.failures) == (TrialState.PENDING, {FailureClass.PREEMPTED: 1})
    with pytest.raises(LeaseLost):
        desk.report(follower)
    assert desk.ask(1) is not None
    assert row.attempts == 2


async def test_a_lost_worker_ends_the_attempt_of_all() -> None:
    desk = Desk()
    row = desk.submit()
    first = desk.grant()
    assert desk.report(first[0], (MetricPoint(step=1, metrics={"loss": 1.0}),)) == "continue"
    desk.book.lost(WorkerLost("g", FailureClass.OUT_OF_MEMORY, "the pod ran out of memory", worker="g-1"))
    assert row.failures == {FailureClass.OUT_OF_MEMORY: 1}
    with pytest.raises(LeaseLost):
        desk.report(first[0])
    await desk.result(first[0], CRASHED)
    assert row.failures == {FailureClass.OUT_OF_MEMORY: 1}, "what the others say of it is not another failure"
    assert desk.ask(0, wait=5.0) is None
    assert desk.ask(1, worker="g-1-again") is not None
    assert row.attempts == 2


async def test_the_end_of_a_worker_of_an_earlier_attempt_is_nothing_to_this_one() -> None:
    desk = Desk()
    row = desk.submit()
    desk.grant()
    desk.book.lost(WorkerLost("g", FailureClass.PREEMPTED, "deleted", worker="g-7"))
    assert state(row) is TrialState.RUNNING
    desk.book.lost(WorkerLost("g", FailureClass.PREEMPTED, "the Job was deleted"))
    assert state(row) is TrialState.PENDING


async def test_a_rank_that_fails_fails_the_trial_with_its_own_message() -> None:
    desk = Desk()
    row = desk.submit()
    parts = desk.grant()
    assert await desk.result(parts[0], OUT_OF_TOUCH)
    assert state(row) is TrialState.RUNNING, "why is for another rank to say"
    assert await desk.result(parts[1], CRASHED)
    assert (row.state, row.failure) == (TrialState.FAILED, FailureClass.USER_ERROR)
    assert row.message == "rank 1 of 2: ValueError: no"
    assert desk.finished == [row]


async def test_out_of_touch_and_the_launcher_says_why() -> None:
    desk = Desk()
    row = desk.submit()
    parts = desk.grant()
    await desk.result(parts[0], OUT_OF_TOUCH)
    desk.now += 3
    desk.book.lost(WorkerLost("g", FailureClass.PREEMPTED, "the pod was told to go", worker="g-1"))
    assert (row.state, row.message) == (TrialState.PENDING, "the pod was told to go")
    assert row.failures == {FailureClass.PREEMPTED: 1}


async def test_out_of_touch_with_one_that_is_silent_is_no_failure_of_the_trial() -> None:
    desk = Desk()
    row = desk.submit()
    parts = desk.grant()
    await desk.result(parts[0], OUT_OF_TOUCH)
    desk.now += 9
    desk.book.expire()
    assert state(row) is TrialState.RUNNING
    desk.now += 2
    desk.book.expire()
    assert row.failures == {FailureClass.PREEMPTED: 1}
    assert row.message == "nothing was heard of rank 1 (g-1) of 2 for 11 s"


async def test_out_of_touch_with_all_alive_is_the_networks_fault() -> None:
    desk = Desk()
    row = desk.submit()
    parts = desk.grant()
    await desk.result(parts[1], OUT_OF_TOUCH)
    await desk.result(parts[0], OUT_OF_TOUCH)
    assert row.failures == {FailureClass.INFRASTRUCTURE: 1}
    assert row.message == "connection closed"
    desk.book.close()


async def test_a_rank_that_is_not_heard_of_is_lost() -> None:
    desk = Desk()
    row = desk.submit()
    parts = desk.grant()
    desk.now += 10
    assert [desk.report(part) for part in parts] == ["continue", "continue"]
    for seconds in (20, 11):  # the second is more than a lease after rank 1 was heard
        desk.book.expire()
        assert state(row) is TrialState.RUNNING
        desk.now += seconds
        desk.report(parts[0])
    desk.book.expire()
    assert state(row) is TrialState.PENDING
    assert "rank 1" in row.message
    assert row.failures == {FailureClass.PREEMPTED: 1}


async def test_the_leaders_result_is_the_trials_whoever_ends_first() -> None:
    desk = Desk()
    row = desk.submit()
    parts = desk.grant()
    assert await desk.result(parts[1], Outcome(state=TrialState.SUCCEEDED))
    assert state(row) is TrialState.RUNNING
    assert desk.ask(1) is None, "it waits for the next one; the trial goes on"
    desk.now += 25
    desk.report(parts[0])
    desk.now += 25
    desk.book.expire()
    assert state(row) is TrialState.RUNNING
    assert await desk.result(parts[0], DONE)
    assert state(row) is TrialState.SUCCEEDED
    assert (row.resources.gpu_seconds, row.resources.cpu_seconds, row.resources.wall_seconds) == (6.0, 8.0, 5.0)
    assert await desk.result(parts[0], DONE), "a reply that was lost"
    assert desk.finished == [row]


async def test_a_rank_that_has_to_go_takes_the_others_with_it_after_their_checkpoint() -> None:
    desk = Desk()
    row = desk.submit()
    parts = desk.grant()
    await desk.result(parts[1], RELEASED)
    assert state(row) is TrialState.RUNNING, "rank 0 is uploading the checkpoint"
    await desk.result(parts[0], RELEASED)
    assert row.failures == {FailureClass.PREEMPTED: 1}
    assert not desk.book.live


async def test_an_earlier_lease_is_fenced_off() -> None:
    desk = Desk()
    row = desk.submit()
    first = desk.grant()
    desk.book.lost(WorkerLost("g", FailureClass.PREEMPTED, "gone", worker="g-1"))
    second = desk.grant()
    assert first[0].lease != second[0].lease
    members = [part[1].member for part in (first, second)]
    assert members[0] is not None
    assert members[1] is not None
    assert members[0].attempt != members[1].attempt
    with pytest.raises(LeaseLost):
        desk.report(first[1])
    assert not await desk.result(first[0], DONE)
    assert state(row) is TrialState.RUNNING
    assert await desk.result(second[0], DONE)


async def test_a_late_success_of_the_leader_is_taken_while_nobody_else_has_the_trial() -> None:
    desk = Desk()
    row = desk.submit()
    parts = desk.grant()
    desk.book.lost(WorkerLost("g", FailureClass.PREEMPTED, "gone", worker="g-1"))
    assert await desk.result(parts[1], DONE)
    assert state(row) is TrialState.PENDING
    assert await desk.result(parts[0], DONE)
    assert state(row) is TrialState.SUCCEEDED


async def test_a_driver_that_starts_again_lets_the_group_go_on() -> None:
    desk = Desk()
    row = desk.submit()
    parts = desk.grant()
    desk.restart()
    for _ in range(3):
        desk.now += 20
        assert [desk.report(part) for part in parts] == ["continue", "continue"]
        desk.book.expire()
    assert state(row) is TrialState.RUNNING
    assert row.failures == {}
    await desk.result(parts[1], DONE)
    await desk.result(parts[0], DONE)
    assert state(row) is TrialState.SUCCEEDED


async def test_after_a_restart_every_rank_must_be_heard() -> None:
    desk = Desk()
    row = desk.submit()
    parts = desk.grant()
    desk.restart()
    desk.now += 20
    desk.report(parts[0])
    desk.now += 11
    desk.book.expire()
    assert row.failures == {FailureClass.PREEMPTED: 1}
    with pytest.raises(LeaseLost):
        desk.report(parts[0])


async def test_after_a_restart_a_rank_that_asks_anew_has_lost_its_part() -> None:
    desk = Desk()
    row = desk.submit()
    parts = desk.grant()
    desk.restart()
    desk.report(parts[0])
    assert desk.ask(1, worker="g-1-again", wait=5.0) is None
    assert row.failures == {FailureClass.PREEMPTED: 1}
    assert desk.ask(0) is not None
    assert row.attempts == 2


async def test_stop_and_suspend_reach_every_rank() -> None:
    desk = Desk()
    desk.submit()
    parts = desk.grant()
    desk.book.paused = True
    assert [desk.report(part) for part in parts] == ["release", "release"]
    desk.book.paused = False
    desk.write(r.StopAsked(number=1))
    assert [desk.report(part) for part in parts] == ["stop", "stop"]
    desk.book.end_search()
    assert [desk.report(part) for part in parts] == ["stop", "stop"]
    assert desk.book.live == 0
