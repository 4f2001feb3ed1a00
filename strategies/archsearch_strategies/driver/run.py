"""The durable run: a strategy's execution beside the ledger's records of it."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable

from archsearch.errors import NonDeterministic
from archsearch.spec.base import JsonObject
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.prior import to_points
from archsearch_strategies.driver.rows import COUNTED, Row
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.strategy import CHECKPOINT_OF, Compute, Execution, Json, Note, Result, Stage, Stop, Submit

OutputRecord = r.Submitted | r.Staged | r.Noted | r.StopAsked


def trial_seed(seed: int, architecture_hash: str, replicate: int) -> int:
    """A trial's seed, 0 … 2**31 − 1: from the experiment's seed, the architecture's hash and the replicate."""
    digest = hashlib.sha256(f"archsearch-trial-1:{seed}:{architecture_hash}:{replicate}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


class DurableRun:
    """Feeds an execution and writes what goes in and what comes out.

    Inputs are written as they are fed. Outputs are written in their order; a submission beyond the budget is held back,
    with everything behind it, until the budget is raised.

    Args:
        write: appends one record to the ledger and applies it to `table`.
    """

    def __init__(self, execution: Execution, table: TrialTable, seed: int, write: Callable[[r.Record], object]) -> None:
        self._execution = execution
        self._table = table
        self._seed = seed
        self._write = write
        self._outbox: deque[OutputRecord] = deque()
        self._computes: deque[Compute] = deque()
        self._started = False

    @property
    def finished(self) -> bool:
        """The strategy has returned and everything that it asked for is written."""
        return self._execution.finished and not self._outbox

    @property
    def held(self) -> bool:
        """The strategy wants more trials than the budget allows."""
        return bool(self._outbox)

    @property
    def computing(self) -> Compute | None:
        """The computation whose value the strategy waits for; `answer` feeds it."""
        return self._computes[0] if self._computes else None

    def replay(self, recorded: Iterable[r.Record]) -> None:
        """Start the strategy and feed it what the ledger recorded, in that order. Writes nothing.

        Raises:
            NonDeterministic: the strategy asks for something else than it did before; the text shows both.
            StrategyError: the strategy raised.
        """
        expected: deque[OutputRecord] = deque()
        for record in recorded:
            if isinstance(record, OutputRecord):
                expected.append(record)
            elif isinstance(record, r.Prior):
                self._feed_prior(record)
            elif isinstance(record, r.Facts):
                self._feed_facts(record)
            elif isinstance(record, r.Memo):
                self._replay_memo(record)
            elif isinstance(record, r.Handed):
                self._compare(expected)
                self._replay_handed(record, expected)
            self._collect()
            self._compare(expected)
        if expected:
            raise NonDeterministic(
                f"the ledger has {_show(expected[0])}, but the replayed strategy asked for nothing more"
            )

    def prior(self, record: r.Prior) -> None:
        """Tell the strategy of earlier runs, before the first `facts` starts it."""
        self._write(record)
        self._feed_prior(record)

    def facts(self, parallelism: int, max_trials: int) -> None:
        """Tell the strategy what it may use, where that is new; the first call starts it."""
        record = r.Facts(parallelism=parallelism, max_trials=max_trials)
        if self._started and self._table.facts == record:
            return
        self._write(record)
        self._feed_facts(record)
        self._settle()

    def hand(self, number: int) -> None:
        """Give the strategy the result of a finished trial."""
        self._write(r.Handed(number=number))
        self._execution.hand(self._own(number), _result(self._table.rows[number]))
        self._settle()

    def answer(self, value: Json) -> None:
        """Give the strategy the value of `computing`. Raises TypeError or ValueError where it is no JSON."""
        plain = json.loads(json.dumps(value, allow_nan=False))
        self._write(r.Memo(value=plain))
        self._computes.popleft()
        self._execution.answer(plain)
        self._settle()

    def settle(self) -> None:
        """Write the outputs that a replay produced beyond the records."""
        self._settle()

    def close(self) -> None:
        self._execution.close()

    def _feed_prior(self, record: r.Prior) -> None:
        run = self._execution.run
        run.prior = to_points(record, run.space)

    def _feed_facts(self, record: r.Facts) -> None:
        if self._started:
            self._execution.change(parallelism=record.parallelism, max_trials=record.max_trials)
            return
        self._started = True
        run = self._execution.run
        run.parallelism, run.max_trials = record.parallelism, record.max_trials
        self._execution.start()

    def _replay_handed(self, record: r.Handed, expected: deque[OutputRecord]) -> None:
        number = self._own(record.number)
        if not self._execution.run.is_out(number):
            wanted = _show(expected[0]) if expected else f"trial {record.number}"
            raise NonDeterministic(f"the ledger has {wanted}, which the replayed strategy has not asked for")
        self._execution.hand(number, _result(self._table.rows[record.number]))

    def _replay_memo(self, record: r.Memo) -> None:
        if not self._computes:
            raise NonDeterministic(
                "the ledger has the value of a computation that the replayed strategy does not wait for"
            )
        self._computes.popleft()
        self._execution.answer(record.value)

    def _collect(self) -> None:
        for output in self._execution.outputs():
            if isinstance(output, Compute):
                self._computes.append(output)
            else:
                self._outbox.append(self._record(output))

    def _compare(self, expected: deque[OutputRecord]) -> None:
        while expected and self._outbox:
            was, now = expected.popleft(), self._numbered(self._outbox.popleft())
            if was != now:
                raise NonDeterministic(f"the ledger has {_show(was)}, but the replayed strategy asked for {_show(now)}")

    def _settle(self) -> None:
        self._collect()
        while self._outbox and not self._beyond_budget(self._outbox[0]):
            self._write(self._numbered(self._outbox.popleft()))

    def _beyond_budget(self, record: OutputRecord) -> bool:
        limit = self._execution.run.max_trials
        counted = isinstance(record, r.Submitted) and record.kind in COUNTED
        return counted and limit is not None and self._table.counted >= limit

    # The strategy counts its own trials; the driver's, added after an earlier end of the search, stand between them.

    def _own(self, number: int) -> int:
        return number - sum(added < number for added in self._table.added)

    def _numbered(self, record: OutputRecord) -> OutputRecord:
        if isinstance(record, r.Staged | r.Noted):
            return record
        update: JsonObject = {"number": self._of_table(record.number)}
        if isinstance(record, r.Submitted) and CHECKPOINT_OF in record.params:
            update["params"] = record.params | {CHECKPOINT_OF: self._of_table(record.params[CHECKPOINT_OF])}
        return record.model_copy(update=update)

    def _of_table(self, number: int) -> int:
        for added in self._table.added:  # ascending
            number += added <= number
        return number

    def _record(self, output: Submit | Stage | Note | Stop) -> OutputRecord:
        if isinstance(output, Submit):
            trial = output.trial
            return r.Submitted(
                number=trial.number,
                kind=trial.kind,
                architecture=None if trial.architecture is None else trial.architecture.to_json(),
                hash=trial.hash,
                params=trial.params,
                replicate=trial.replicate,
                seed=trial_seed(self._seed, trial.hash, trial.replicate),
            )
        if isinstance(output, Stage):
            return r.Staged(name=output.name)
        if isinstance(output, Note):
            return r.Noted(name=output.name, value=output.value)
        return r.StopAsked(number=output.number)


def _result(row: Row) -> Result:
    return Result(row.state, row.metrics, row.failure, row.message, row.payload, weights=row.weighted)


def _show(record: OutputRecord) -> str:
    if isinstance(record, r.Submitted):
        what = json.dumps(record.architecture, sort_keys=True)
        extra = f" with {json.dumps(record.params, sort_keys=True)}" if record.params else ""
        return f"trial {record.number}: {record.kind.value} of {what}{extra}, replicate {record.replicate}"
    if isinstance(record, r.Staged):
        return f"the stage {record.name!r}"
    if isinstance(record, r.Noted):
        return f"the note {record.name!r}: {json.dumps(record.value, sort_keys=True)}"
    return f"the stop of trial {record.number}"
