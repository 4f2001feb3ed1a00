"""The table of trials: what a run's records add up to. The driver and every reader of a ledger build the same one."""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from archsearch.protocol import RESUMED_FIDELITY, FailureClass, MetricPoint, TrialKind, TrialState
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import Objective
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.curves import Curves
from archsearch_strategies.driver.rows import CANDIDATES, COUNTED, REUSABLE, SHARED, WEIGHTED, Identity, Lease, Row
from archsearch_strategies.strategy import CHECKPOINT_OF, objective_values

BEST_KEPT = 20
DISCARDED_KEPT = 64


class Watcher(Protocol):
    """Sees reports and results as the records are applied, a replay's among them."""

    def reported(self, row: Row, points: Sequence[MetricPoint]) -> None: ...

    def finished(self, row: Row) -> None: ...


class TrialTable:
    """Applies records one by one. Nothing else changes a trial that has a number."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = tuple(objectives)
        self.rows: dict[int, Row] = {}
        self.by_lease: dict[str, Row] = {}  # of each trial the newest lease
        self.known: dict[Identity, Row] = {}  # the trial whose result others of its identity share
        self.unhanded: dict[int, Row] = {}  # finished, and the strategy has not seen it; in the order of the results
        self.counts: Counter[TrialState] = Counter()
        self.failures: Counter[FailureClass] = Counter()  # attempts by class
        self.counted = 0  # submitted trials that the budget counts
        self.counted_finished = 0
        self.failed = 0  # failed trials of the search
        self.added: dict[int, Row] = {}  # the driver's own trials, by number
        self.retraining: list[Row] = []  # those of them that belong to the end of the search as it stands
        self.gpu_seconds = 0.0
        self.best: list[Row] = []  # best first, by merit, ties by number; of a promoted architecture the furthest trial
        self.pareto: list[Row] = []  # of the highest fidelity, not dominated, by number
        self.goal: Row | None = None  # the first trial that met every target, trained as far as any
        self.highest_fidelity: float | None = None  # that the strategy uses, where it says so
        self.watcher: Watcher | None = None  # told of each report and result
        self._asked_fidelity = 0.0  # the highest that a trial was submitted with
        self.weights: dict[str, list[Row]] = {}  # trials' final weights in the store, by key
        self.needed: Counter[str] = Counter()  # checkpoints that unfinished trials begin with, by key
        self.superseded: set[str] = set()  # weights, by key, with which a trial of a higher fidelity went on
        self.final: set[str] = set()  # and those of the highest fidelity, with which none will
        self.discarded: deque[str] = deque(maxlen=DISCARDED_KEPT)  # the last keys said to be gone
        self.curves = Curves()
        self.experiment: r.Experiment | None = None
        self.space: str | None = None
        self.accepted: r.Accepted | None = None
        self.prior: r.Prior | None = None
        self.facts: r.Facts | None = None
        self._stage = ""
        self.notes: dict[str, JsonObject] = {}  # the strategy's, by name
        self.ended: r.Ended | None = None
        self.exported: r.Exported | None = None
        self.suspended = False
        self.epoch = 0
        self._active_since: float | None = None
        self._active = 0.0
        self._last_time = 0.0

    def replay(self, documents: Iterable[JsonObject]) -> list[r.Record]:
        """Apply the records of a ledger; gives back those that the strategy's replay needs.

        Raises:
            LedgerFormatError: a record is of another version.
        """
        kept: list[r.Record] = []
        for document in documents:
            record = r.parse(document)
            self.apply(record)
            if isinstance(
                record, r.Prior | r.Facts | r.Handed | r.Memo | r.Submitted | r.Staged | r.Noted | r.StopAsked
            ):
                kept.append(record)
        return kept

    def apply(self, record: r.Record) -> None:
        """Take in one record."""
        handler = _HANDLERS.get(type(record))
        if handler is not None:
            handler(self, record)
        self._last_time = max(self._last_time, record.__dict__.get("time", 0.0))

    def elapsed(self, now: float) -> float:
        """Seconds that the search has been at work: not those suspended, nor those in which no driver ran."""
        return self._active + (max(0.0, now - self._active_since) if self._active_since is not None else 0.0)

    @property
    def begun(self) -> bool:
        """Whether anything is recorded that depends on the experiment's frozen fields."""
        return self.accepted is not None or self.prior is not None or bool(self.rows)

    @property
    def unfinished(self) -> int:
        return self.counts[TrialState.PENDING] + self.counts[TrialState.RUNNING]

    def _set(self, row: Row, state: TrialState) -> None:
        self.counts[row.state] -= 1
        self.counts[state] += 1
        row.state = state

    def _experiment(self, record: r.Experiment) -> None:
        self.experiment = record

    def _opened(self, record: r.Opened) -> None:
        self._pause(self._last_time)  # a driver that died was at work until its last record
        self.epoch = record.epoch
        if not self.suspended and self.ended is None:
            self._active_since = record.time

    def _pause(self, time: float) -> None:
        if self._active_since is not None:
            self._active += max(0.0, time - self._active_since)
        self._active_since = None

    def _accepted(self, record: r.Accepted) -> None:
        self.space = record.space
        self.accepted = record
        self.highest_fidelity = record.highest_fidelity

    def _earlier(self, record: r.Prior) -> None:
        self.prior = record

    def _facts(self, record: r.Facts) -> None:
        self.facts = record

    def _submitted(self, record: r.Submitted) -> None:
        self._enter(_row(record))
        self.counted += record.kind in COUNTED

    def _added(self, record: r.Added) -> None:
        row = _row(record)
        row.added, row.source, row.control = True, record.of, record.control
        self._enter(row)
        self.added[record.number] = row
        self.retraining.append(row)

    def _enter(self, row: Row) -> None:
        self.rows[row.number or 0] = row
        self.counts[TrialState.PENDING] += 1
        row.input = self._input(row)
        self.needed[row.input] += 1
        self.known.setdefault(row.identity, row)
        if row.kind in CANDIDATES:
            self._asked_fidelity = max(self._asked_fidelity, row.fidelity)

    @property
    def stage(self) -> str:
        """The strategy's phase, or `retrain` while the best are trained again."""
        retrains = self.ended is not None and any(not row.finished for row in self.retraining)
        return TrialKind.RETRAIN.value if retrains else self._stage

    def _staged(self, record: r.Staged) -> None:
        self._stage = record.name

    def _note(self, record: r.Noted) -> None:
        self.notes[record.name] = record.value

    def _stop(self, record: r.StopAsked | r.Stopped) -> None:
        row = self.rows[record.number]
        row.stop = True
        if isinstance(record, r.Stopped):
            row.stop_reason = record.reason or f"stopped by the rule {record.rule}"

    def _leased(self, record: r.Leased) -> None:
        row = self.rows[record.number]
        if row.lease is not None:
            self.by_lease.pop(row.lease.digest, None)
        row.lease = Lease(record.lease, record.attempt, record.epoch, record.counter, record.worker, record.job)
        row.attempts = record.attempt
        self.by_lease[record.lease] = row
        self._set(row, TrialState.RUNNING)

    def _reported(self, record: r.Reported) -> None:
        row = self.rows[record.number]
        self.curves.take(row, record.points)
        row.checkpoint = record.checkpoint or row.checkpoint
        if self.watcher is not None and record.points:
            self.watcher.reported(row, record.points)

    def _returned(self, record: r.Returned) -> None:
        row = self.rows[record.number]
        row.failures[record.failure] += 1
        row.message = record.message
        self.failures[record.failure] += 1
        self.gpu_seconds += record.resources.gpu_seconds
        self._set(row, TrialState.PENDING)

    def _reclaimed(self, record: r.Reclaimed) -> None:
        self._set(self.rows[record.number], TrialState.RUNNING)

    def _result(self, record: r.Result) -> None:
        row = self.rows[record.number]
        self._set(row, record.state)
        row.metrics, row.failure, row.message = record.metrics, record.failure, record.message
        row.resources, row.artifacts, row.payload = record.resources, record.artifacts, record.payload
        row.source, row.source_uri = record.source or row.source, record.source_uri
        row.weighted = "checkpoint" in record.artifacts
        self.needed[row.input] -= 1
        self._hold(row)
        if row.input in self.weights and row.weighted and RESUMED_FIDELITY in row.params:
            self.superseded.add(row.input)
        if not row.added:
            self.unhanded[record.number] = row
            self.failed += record.state is TrialState.FAILED
        self.counted_finished += row.kind in COUNTED
        self.gpu_seconds += record.resources.gpu_seconds
        if record.failure is not None:
            self.failures[record.failure] += 1
        if row.state not in SHARED and self.known.get(row.identity) is row:
            del self.known[row.identity]
        if row.state in REUSABLE and row.kind in CANDIDATES:
            self._rank(row)
        if self.watcher is not None:
            self.watcher.finished(row)

    def _hold(self, row: Row) -> None:
        """Only what lies in the folder of a trial: its own, or that of the equal trial whose result it has."""
        key = row.artifacts.get("checkpoint", "")
        owners = (row.number, row.source) if row.state is TrialState.CACHED else (row.number,)
        if row.kind in WEIGHTED and key.startswith(tuple(f"trials/{number}/" for number in owners)):
            self.weights.setdefault(key, []).append(row)
            if row.fidelity == self.highest_fidelity:
                self.final.add(key)

    def _input(self, row: Row) -> str:
        if CHECKPOINT_OF not in row.params:
            return str(row.params.get("checkpoint") or "")
        source = self.rows.get(row.params[CHECKPOINT_OF])
        return source.artifacts.get("checkpoint", "") if source is not None else ""

    def _discard(self, record: r.Discarded) -> None:
        for key in record.keys:
            for row in self.weights.pop(key, ()):
                row.artifacts = {name: value for name, value in row.artifacts.items() if name != "checkpoint"}
        self.superseded.difference_update(record.keys)
        self.final.difference_update(record.keys)
        self.discarded.extend(record.keys)

    def _rank(self, row: Row) -> None:
        row.values = objective_values(self.objectives, row.metrics)
        if not row.values:
            return
        equal = [other for other in self.best if (other.hash, other.replicate) == (row.hash, row.replicate)]
        if all(other.fidelity <= row.fidelity for other in equal):
            for other in equal:
                if other.fidelity < row.fidelity:
                    self.best.remove(other)
            insort(self.best, row, key=lambda each: (-each.merit[0], -each.merit[1], each.number or 0))
            del self.best[BEST_KEPT:]
        if not any(_stands_before(other, row) for other in self.pareto):
            self.pareto = [other for other in self.pareto if not _stands_before(row, other)] + [row]
        if self.goal is None and self._in_full(row) and _meets_targets(self.objectives, row.metrics):
            self.goal = row

    def _in_full(self, row: Row) -> bool:
        """Trained as far as the strategy trains any; where it does not say, as any trial so far."""
        highest = self._asked_fidelity if self.highest_fidelity is None else self.highest_fidelity
        return row.fidelity >= highest

    def _handed(self, record: r.Handed) -> None:
        self.unhanded.pop(record.number, None)

    def _suspend(self, record: r.Suspended) -> None:
        self.suspended = True
        self._pause(record.time)

    def _resume(self, record: r.Resumed) -> None:
        self.suspended = False
        self._active_since = record.time

    def _end(self, record: r.Ended) -> None:
        self.ended = record
        self.retraining = []
        self._pause(record.time)
        for row in self.rows.values() if self.counts[TrialState.RUNNING] else ():
            if row.state is TrialState.RUNNING:  # told to stop; it starts again if the search is reopened
                self._set(row, TrialState.PENDING)

    def _export(self, record: r.Exported) -> None:
        self.exported = record

    def _reopen(self, record: r.Reopened) -> None:
        self.ended = None
        self.exported = None
        for row in self.retraining:
            if not row.finished:  # the search may find better ones
                self._set(row, TrialState.PRUNED)
                self.known.pop(row.identity, None)
        self._active_since = record.time

    def _close(self, record: r.Closed) -> None:
        self._pause(record.time)


def _row(record: r.Submitted | r.Added) -> Row:
    return Row(
        record.number, record.kind, record.architecture, record.hash, record.params, record.replicate, record.seed
    )


def _stands_before(row: Row, other: Row) -> bool:
    """Trained further, or as far and at least as good everywhere."""
    if row.fidelity != other.fidelity:
        return row.fidelity > other.fidelity
    return _covers(row.values, other.values)


def _covers(values: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """At least as good everywhere: dominates, or is equal (the earlier of equals stays)."""
    return all(a >= b for a, b in zip(values, other, strict=True))


def _meets_targets(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> bool:
    aimed = [objective for objective in objectives if objective.target is not None]
    reached = objective_values(aimed, metrics)
    wanted = objective_values(aimed, {objective.metric: float(objective.target or 0) for objective in aimed})
    return bool(aimed) and _covers(reached, wanted)


_HANDLERS: dict[type, Callable[[TrialTable, Any], None]] = {
    r.Experiment: TrialTable._experiment,
    r.Opened: TrialTable._opened,
    r.Accepted: TrialTable._accepted,
    r.Prior: TrialTable._earlier,
    r.Facts: TrialTable._facts,
    r.Submitted: TrialTable._submitted,
    r.Added: TrialTable._added,
    r.Staged: TrialTable._staged,
    r.Noted: TrialTable._note,
    r.StopAsked: TrialTable._stop,
    r.Stopped: TrialTable._stop,
    r.Leased: TrialTable._leased,
    r.Reported: TrialTable._reported,
    r.Returned: TrialTable._returned,
    r.Reclaimed: TrialTable._reclaimed,
    r.Result: TrialTable._result,
    r.Discarded: TrialTable._discard,
    r.Handed: TrialTable._handed,
    r.Suspended: TrialTable._suspend,
    r.Resumed: TrialTable._resume,
    r.Ended: TrialTable._end,
    r.Exported: TrialTable._export,
    r.Reopened: TrialTable._reopen,
    r.Closed: TrialTable._close,
}
