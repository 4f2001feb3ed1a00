"""The simulation: a search of the driver, workers that take simulated time, and the events between them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from archsearch.errors import ArchsearchError
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
from archsearch.space import SearchSpace
from archsearch.spec.experiment import Budget, EvaluatorSpec, ModelSpace, Objective, StoppingSpec, ZooSpace
from archsearch.spec.pods import Retries
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.search import End, Search
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.launch.base import WorkerLost
from archsearch_strategies.lease.book import BookSettings
from archsearch_strategies.simulate.cluster import Answer, Answers, Cluster, Fate, Point, fate
from archsearch_strategies.simulate.parts import Clock, MemoryJournal, SimulatedBook, SimulatedSearch, drive
from archsearch_strategies.stopping import make_rule
from archsearch_strategies.strategy import Execution, Strategy, strategy_run

STOPPED = "Stopped"  # the reason of an end that `Simulation.stop` brought about


class Stalled(ArchsearchError):
    """Nothing is out, nothing will happen, and the strategy neither ends nor asks for a trial."""


@dataclass(frozen=True)
class Simulated:
    """How a simulation ended."""

    table: TrialTable
    end: End
    seconds: float  # on the simulated clock

    @property
    def best(self) -> Row | None:
        """The best trial by the first objective."""
        return self.table.best[0] if self.table.best else None


@dataclass(eq=False, slots=True)
class _Attempt:
    row: Row
    number: int
    grant: Grant
    worker: int
    answer: Answer
    slowdown: float
    started: float
    kept: float  # seconds of work that an earlier attempt had done
    overhead: float
    last: dict[str, float] = field(default_factory=dict)
    over: bool = False

    def time(self, work: float) -> float:
        """When so many seconds of the trial's work are done."""
        return self.started + self.overhead + (work - self.kept) * self.slowdown

    def work(self, now: float) -> float:
        """Seconds of the trial's work that are done, earlier attempts' among them."""
        return self.kept + max(0.0, now - self.started - self.overhead) / self.slowdown


class Simulation:
    """One search on simulated workers.

    The strategy's durable run, the table of trials, the budgets, the queue, the leases, the retries and the sharing of
    equal trials' results are the driver's own; only time, workers and trials are simulated. The same arguments give the
    same history, on every machine.

    Args:
        strategy: a new one for each simulation, or (for `restart`) a function that makes it.
        space: the search space.
        objectives: what is searched for.
        answers: how a trial would end, and its seconds.
        seed: of the experiment: of the strategy, the trials, and of what befalls the workers.
        budget: maxDurationSeconds are the clock's; maxGpuSeconds those of all trials together.
        parallelism: trials at one time (parallelTrials).
        retries: by class of failure.
        cluster: the workers.
        stopping: a rule that ends trials by the points of their answers' curves.
        record: keep every record, for `restart` and `records`.
        on_result: called with each finished trial and the time.
    """

    def __init__(
        self,
        strategy: Strategy[Any] | Callable[[], Strategy[Any]],
        space: SearchSpace,
        objectives: Sequence[Objective],
        answers: Answers,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        parallelism: int = 1,
        retries: Retries | None = None,
        cluster: Cluster | None = None,
        stopping: StoppingSpec | None = None,
        record: bool = False,
        on_result: Callable[[Row, float], None] | None = None,
    ) -> None:
        self.clock = Clock()
        self.cluster = cluster or Cluster()
        self.records: list[r.Record] = []
        self._strategy: Callable[[], Strategy[Any]] = (lambda: strategy) if isinstance(strategy, Strategy) else strategy
        self._space = space
        self._objectives = tuple(objectives)
        self._answers = answers
        self._seed = seed
        self._budget = budget or Budget()
        self._parallelism = parallelism
        self._retries = retries or Retries()
        self._stopping = stopping
        self._record = record
        self._on_result = on_result or (lambda row, now: None)
        self._stop_asked = False
        self._granted: Row | None = None
        self._attempts: dict[int, _Attempt] = {}  # running, by trial
        self._kept: dict[int, float] = {}  # work that the next attempt need not do
        self._idle: list[int] = []  # a heap of workers
        self._requests: list[LeaseRequest] = []
        self._base = _base_assignment(self._objectives)
        self._open([])
        for _ in range(self.cluster.workers or parallelism):
            self._hire()

    @property
    def search(self) -> Search:
        """The driver's search."""
        return self._search

    def run(self) -> Simulated:
        """Run to the end.

        Raises:
            StrategyError, NonDeterministic: the strategy is at fault.
            Stalled: it waits for nothing.
        """
        while (end := self.end()) is None:
            self.step()
        self._write(r.Ended(reason=end.reason, message=end.message, time=self.clock.now))
        self._book.end_search()
        drive(self._search.close())
        return Simulated(self.table, end, self.clock.now)

    def end(self) -> End | None:
        """Whether and why the search is over now. Raises the strategy's error."""
        if self._search.error is not None:
            raise self._search.error
        if self._stop_asked:
            return End(STOPPED, "the simulation was told to stop")
        return self._search.end(self.clock.now)

    def step(self) -> None:
        """Give idle workers trials, and go to the next event, or to the end of the time.

        Raises:
            Stalled: there will be no event.
        """
        self._dispatch()
        upcoming, limit = self.clock.next, self._budget.max_duration_seconds
        if upcoming is None:
            raise Stalled(
                f"after {self.table.counted} trials the strategy waits, though none is unfinished and none will come"
            )
        if limit is not None and upcoming > limit:
            self.clock.now = float(limit)
        else:
            self.clock.advance()

    def stop(self) -> None:
        """End at the next look."""
        self._stop_asked = True

    def change(self, *, parallelism: int | None = None, budget: Budget | None = None) -> None:
        """Change parallelTrials (with as many workers, unless the cluster says how many) or the budget, from now on."""
        if budget is not None:
            self._budget = self._search.budget = budget
        if parallelism is not None:
            self._parallelism = parallelism
            while self.cluster.workers is None and len(self._requests) < parallelism:
                self._hire()
        self._search.facts(self._parallelism)

    def restart(self) -> None:
        """The driver dies and another one takes over from the records; the workers go on.

        Raises:
            ValueError: the simulation was not told to record.
            NonDeterministic: the strategy asks for something else than it did before.
        """
        if not self._record:
            raise ValueError("to restart, a simulation must be made with record=True")
        self._book.close()
        drive(self._search.close())
        documents = [record.to_json() for record in self.records]
        self.records = []
        self._open(documents)

    # --- the driver

    def _open(self, documents: list[dict[str, Any]]) -> None:
        self.table = TrialTable(self._objectives)
        rule = self.table.watcher = make_rule(self._stopping, self._objectives)
        recorded = self.table.replay(documents)
        self.records = [r.parse(document) for document in documents]
        journal = MemoryJournal(self.table, self._written)
        self._write = journal.write
        self._write(r.Opened(epoch=self.table.epoch + 1, version="simulated", time=self.clock.now))
        strategy = self._strategy()
        if self.table.space is None:
            self._write(r.Accepted(space=self._space.digest, highest_fidelity=strategy.highest_fidelity))
        settings = BookSettings(
            epoch=self.table.epoch,
            retries=self._retries,
            objectives=self._objectives,
            parallelism=self._parallelism,
            lease_seconds=float("inf"),
        )
        self._book = SimulatedBook(
            settings, self.table, journal, self.clock, assign=self._assign, finished=self._finished
        )
        self._book.rule = rule
        run = strategy_run(self._space, self._objectives, seed=self._seed)
        self._keeps_weights = strategy.reuses_weights
        self._search = SimulatedSearch(
            Execution(strategy, run),
            self.table,
            journal,
            self._book,
            seed=self._seed,
            budget=self._budget,
            wall=lambda: self.clock.now,
            changed=lambda: None,
        )
        for number, attempt in self._attempts.items():
            attempt.row = self.table.rows[number]
        self._search.begin(recorded, self._parallelism, workers_died=False)

    def _written(self, record: r.Record) -> None:
        if self._record:
            self.records.append(record)
        if isinstance(record, r.Result):
            self._on_result(self.table.rows[record.number], self.clock.now)
        elif isinstance(record, r.StopAsked | r.Stopped):
            number = record.number
            self.clock.at(self.clock.now + self.cluster.stop_seconds, lambda: self._stop_trial(number))

    def _finished(self, row: Row) -> None:
        self._search.row_finished(row)

    def _assign(self, row: Row) -> Assignment:
        self._granted = row
        return self._base

    # --- the workers

    def _hire(self) -> None:
        worker = len(self._requests)
        self._requests.append(LeaseRequest(version="simulated", worker=f"worker-{worker}", job=f"worker-{worker}"))
        self._come_up(worker)

    def _come_up(self, worker: int) -> None:
        if self.cluster.startup_seconds:
            self.clock.at(self.clock.now + self.cluster.startup_seconds, lambda: heapq.heappush(self._idle, worker))
        else:
            heapq.heappush(self._idle, worker)

    def _dispatch(self) -> None:
        while self._idle:
            grant = self._book.grant(self._requests[self._idle[0]])
            if grant is None or self._granted is None or self._granted.number is None:
                return
            self._begin(self._granted, self._granted.number, grant, heapq.heappop(self._idle))

    def _begin(self, row: Row, number: int, grant: Grant, worker: int) -> None:
        answer = self._answers(row)
        luck = fate(self.cluster, self._seed, row)
        attempt = _Attempt(
            row,
            number,
            grant,
            worker,
            answer,
            luck.slowdown,
            self.clock.now,
            self._kept.get(number, 0.0),
            self.cluster.overhead_seconds,
        )
        self._attempts[number] = attempt
        self._plan(attempt, luck)

    def _plan(self, attempt: _Attempt, luck: Fate) -> None:
        at, answer = self.clock.at, attempt.answer
        left = max(0.0, answer.seconds - attempt.kept)
        last = min((part for part in (luck.fails, luck.preempted) if part is not None), default=1.0)
        for point in answer.curve:
            if attempt.kept < point.seconds <= attempt.kept + last * left:
                at(attempt.time(point.seconds), partial(self._report, attempt, point))
        time = attempt.time(attempt.kept + last * left)
        if luck.preempted is not None and luck.preempted == last:
            at(time, lambda: self._preempt(attempt))
        elif luck.fails is not None:
            message = f"a simulated failure on worker-{attempt.worker}"
            at(time, lambda: self._conclude(attempt, TrialState.FAILED, {}, self.cluster.failure, message))
        else:
            at(time, lambda: self._conclude(attempt, answer.state, answer.metrics, answer.failure, answer.message))

    def _conclude(
        self, attempt: _Attempt, state: Any, metrics: Any, failure: FailureClass | None = None, message: str = ""
    ) -> None:
        if attempt.over:
            return
        attempt.over = True
        del self._attempts[attempt.number]
        self._kept.pop(attempt.number, None)
        seconds = self.clock.now - attempt.started
        keeps = self._keeps_weights or attempt.row.kind is TrialKind.SUPERNET
        outcome = Outcome(
            state=state,
            metrics=dict(metrics),
            failure=failure,
            message=message,
            artifacts={"checkpoint": f"trials/{attempt.number}/weights"} if keeps else {},
            resources=Resources(wall_seconds=seconds, gpu_seconds=seconds),
            payload=attempt.answer.payload if state is TrialState.SUCCEEDED else None,
        )
        heapq.heappush(self._idle, attempt.worker)
        request = ResultRequest(lease=attempt.grant.lease, fence=attempt.grant.fence, outcome=outcome)
        drive(self._book.result(request))

    def _report(self, attempt: _Attempt, point: Point) -> None:
        if attempt.over:
            return
        attempt.last.update(point.metrics)
        points = [MetricPoint(step=point.step, metrics=dict(point.metrics))]
        request = ReportRequest(lease=attempt.grant.lease, fence=attempt.grant.fence, points=points)
        if self._book.report(request).action == "stop":
            self._conclude(attempt, TrialState.PRUNED, attempt.last)

    def _stop_trial(self, number: int) -> None:
        attempt = self._attempts.get(number)
        if attempt is not None:
            self._conclude(attempt, TrialState.PRUNED, attempt.last)

    def _preempt(self, attempt: _Attempt) -> None:
        if attempt.over:
            return
        attempt.over = True
        del self._attempts[attempt.number]
        if self.cluster.checkpoints:
            self._kept[attempt.number] = attempt.work(self.clock.now)
        name = self._requests[attempt.worker].job
        self._book.lost(WorkerLost(name, FailureClass.PREEMPTED, f"{name} was taken away"))
        self._come_up(attempt.worker)


def _base_assignment(objectives: Sequence[Objective]) -> Assignment:
    """What the simulated workers are told: nothing, for they know the row."""
    return Assignment(
        experiment="simulated",
        kind="evaluate",
        folder="",
        model_space=ModelSpace(zoo=ZooSpace(name="simulated")),
        evaluator=EvaluatorSpec(name="simulated"),
        objectives=list(objectives),
        storage=StorageRef(uri=""),
    )
