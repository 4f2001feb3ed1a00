"""The live search: between the strategy's durable run and the lease book. Decides when the search is over."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from archsearch.errors import ArchsearchError
from archsearch.protocol import TrialState
from archsearch.spec import reasons
from archsearch.spec.experiment import Budget
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.journal import Journal
from archsearch_strategies.driver.rows import SHARED, Row
from archsearch_strategies.driver.run import DurableRun
from archsearch_strategies.driver.settled import cached, without_input
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.lease.book import LeaseBook
from archsearch_strategies.strategy import CHECKPOINT_OF, Compute, Execution, StrategyError


@dataclass(frozen=True)
class End:
    """Why a search is over: a reason of archsearch.spec.reasons, and a sentence."""

    reason: str
    message: str


class Search:
    """Hands results to the strategy and its trials to the book.

    Args:
        changed: called when something happened that the driver may have to act on.
        known: the result of a trial that an earlier run has done already, at this time (seconds since the epoch), or
            None.
    """

    def __init__(
        self,
        execution: Execution,
        table: TrialTable,
        journal: Journal,
        book: LeaseBook,
        *,
        seed: int,
        budget: Budget,
        wall: Callable[[], float],
        changed: Callable[[], None],
        known: Callable[[Row, float], r.Result | None] = lambda row, time: None,
    ) -> None:
        self.budget = budget
        self.error: ArchsearchError | None = None  # the strategy's; the run cannot go on
        self.run = DurableRun(execution, table, seed, self._write)
        self._table = table
        self._journal = journal
        self._book = book
        self._wall = wall
        self._changed = changed
        self._followers: dict[Row, list[Row]] = defaultdict(list)  # waiting for the result of an equal trial
        self._earlier = known
        self._known: deque[r.Result] = deque()  # results that need no trial
        self._doomed: deque[Row] = deque()  # what they are to begin with is not there
        self._computing: asyncio.Task[None] | None = None

    def begin(
        self, recorded: list[r.Record], parallelism: int, *, workers_died: bool, prior: r.Prior | None = None
    ) -> None:
        """Replay, then go on from there.

        Args:
            prior: for a strategy that has not started yet: what it is told of earlier runs.

        Raises:
            NonDeterministic, StrategyError, UserError: the strategy cannot go on.
        """
        self.run.replay(recorded)
        for row in self._table.rows.values():
            if row.state is TrialState.PENDING:
                self._route(row)
        self._book.adopt_leases(workers_died=workers_died)
        self.run.settle()
        if prior is not None:
            self.run.prior(prior)
        self.facts(parallelism)

    def facts(self, parallelism: int) -> None:
        """Tell of a changed parallelism or budget."""
        self._book.settings.parallelism = parallelism
        self.run.facts(parallelism, self.budget.max_trials)
        self._book.wake(every=True)
        self.advance()

    def row_finished(self, row: Row) -> None:
        """A numbered trial got its result."""
        for follower in self._followers.pop(row, ()):
            self._route(follower)
        self.advance()

    def advance(self) -> None:
        """Hand over what is finished, one by one, unless a rule has ended the search."""
        try:
            while self.error is None:
                while self._doomed:
                    self._journal.write(without_input(self._doomed.popleft(), self._table, self._wall()))
                while self._known:
                    self._conclude(self._known.popleft())
                number = next(iter(self._table.unhanded), None)
                if number is None or self.rule() is not None:
                    break
                self.run.hand(number)
            self._compute()
        except ArchsearchError as error:
            self.error = error
        self._changed()

    def _conclude(self, result: r.Result) -> None:
        self._journal.write(result)
        for follower in self._followers.pop(self._table.rows[result.number], ()):
            self._route(follower)

    def rule(self) -> End | None:
        """Whether the results so far end the search; independent of the strategy and of the clock."""
        table, budget = self._table, self.budget
        if table.goal is not None:
            return End(reasons.GOAL_REACHED, f"trial {table.goal.number} met the target")
        failed = table.failed
        if failed > budget.max_failed_trials:
            return End(
                reasons.TOO_MANY_FAILED_TRIALS,
                f"{failed} trials failed, more than budget.maxFailedTrials {budget.max_failed_trials}"
                + _last_words(table, TrialState.FAILED),
            )
        if budget.max_gpu_seconds is not None and table.gpu_seconds >= budget.max_gpu_seconds:
            return End(reasons.BUDGET_EXHAUSTED, f"budget.maxGpuSeconds {budget.max_gpu_seconds} is used up")
        return None

    def end(self, now: float) -> End | None:
        """Whether the search is over at the time `now` (seconds since the epoch)."""
        if (rule := self.rule()) is not None:
            return rule
        limit = self.budget.max_duration_seconds
        if limit is not None and self._table.elapsed(now) >= limit:
            told = f"budget.maxDurationSeconds {limit} is over"
            return End(reasons.DEADLINE_EXCEEDED, told + _without_answer(self._table))
        if self._table.unfinished or self._table.unhanded or self.run.computing is not None:
            return None
        if self.run.finished:
            return End(reasons.SEARCH_FINISHED, "the strategy has nothing more to try" + _without_answer(self._table))
        if self.run.held:
            told = f"budget.maxTrials {self.budget.max_trials} trials are finished"
            return End(reasons.MAX_TRIALS_REACHED, told + _without_answer(self._table))
        return None

    async def close(self) -> None:
        if self._computing is not None:
            self._computing.cancel()
            await asyncio.gather(self._computing, return_exceptions=True)
        self.run.close()

    def _write(self, record: r.Record) -> None:
        self._journal.write(record)
        if isinstance(record, r.Submitted):
            self._route(self._table.rows[record.number])

    def _route(self, row: Row) -> None:
        """Into the queue, or to the equal trial whose result it shares."""
        if CHECKPOINT_OF in row.params and not row.input:
            self._doomed.append(row)
            return
        first = self._table.known.setdefault(row.identity, row)
        if first is row and (earlier := self._earlier(row, self._wall())) is not None:
            self._known.append(earlier)
        elif first is row:
            self._journal.when_durable(lambda: self._book.offer(row))
        elif first.state in SHARED:
            self._known.append(cached(row, first, self._wall()))
        else:
            self._followers[first].append(row)

    def _compute(self) -> None:
        wanted = self.run.computing
        if wanted is not None and (self._computing is None or self._computing.done()):
            self._computing = asyncio.get_running_loop().create_task(self._answer(wanted))

    async def _answer(self, wanted: Compute) -> None:
        try:
            value = await asyncio.to_thread(wanted.compute)
            self.run.answer(value)
        except ArchsearchError as error:
            self.error = error
        except Exception as error:
            self.error = StrategyError(f"a computation of the strategy raised {type(error).__name__}: {error}")
            self.error.__cause__ = error
        self._computing = None
        self.advance()


def _without_answer(table: TrialTable) -> str:
    """Why there is none, where no trial succeeded: what the last one that failed, or broke a constraint, said."""
    return "" if table.best else _last_words(table, TrialState.FAILED, TrialState.INFEASIBLE)


def _last_words(table: TrialTable, *states: TrialState) -> str:
    last = next((row for row in reversed(table.rows.values()) if row.state in states and not row.added), None)
    return f"; the last: {last.message.strip().splitlines()[-1]}" if last and last.message.strip() else ""


def may_reopen(table: TrialTable, budget: Budget) -> bool:
    """Whether a budget that was raised since lets an ended search go on."""
    if table.ended is None:
        return False
    match table.ended.reason:
        case reasons.MAX_TRIALS_REACHED:
            return table.counted < budget.max_trials
        case reasons.TOO_MANY_FAILED_TRIALS:
            return table.failed <= budget.max_failed_trials
        case reasons.BUDGET_EXHAUSTED:
            return budget.max_gpu_seconds is None or table.gpu_seconds < budget.max_gpu_seconds
        case reasons.DEADLINE_EXCEEDED:
            limit = budget.max_duration_seconds
            return limit is None or table.elapsed(0.0) < limit
    return False
