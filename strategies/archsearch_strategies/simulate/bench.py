"""Strategies against a table: one simulated run a seed, and what many of them add up to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean, median, stdev
from typing import Any

from archsearch.evaluate.table import Cost, Table
from archsearch.evaluate.tabular import Fidelity, ProxyTable, Tabular, TabularConfig, numbered
from archsearch.protocol import FIDELITY, TrialState
from archsearch.space import SearchSpace
from archsearch.spec import reasons
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import Budget, Goal, Objective
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.making import named_strategy
from archsearch_strategies.simulate.simulation import Simulation
from archsearch_strategies.simulate.tabular import table_answers

MARKS = (25, 50, 100, 150, 200)  # queries at which results are told, besides the last
MOST_TRIALS = 1_000_000
_STUCK = 1000  # repeats and infeasible trials in a row, after which no new row is waited for


@dataclass(frozen=True)
class Bench:
    """What all runs of a bench share. Picklable, and light: each process reads the table itself.

    Attributes:
        table: path of the npz.
        space: JSON of the search space; None: the table's own.
        metric, test_metric: columns; the second is never shown to a strategy.
        cost: COLUMN or COLUMN*FACTOR, the seconds of a query; "": one second.
        fidelities: cheaper trainings by name, cheapest first; trials without the parameter get `metric`.
        continued: they are points of one training.
        queries, cost_budget: distinct rows and simulated seconds that a run may use; at least one is given.
        parallel: trials at one time.
        proxies: path of a table of zero-cost proxies, for strategies that use them; they cost no time.
        to_optimum: a run ends as soon as it has found the table's optimum.
    """

    table: str
    metric: str
    space: str | None = None
    test_metric: str = ""
    cost: str = ""
    fidelities: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    continued: bool = False
    minimize: bool = False
    queries: int | None = None
    cost_budget: int | None = None
    parallel: int = 1
    proxies: str = ""
    to_optimum: bool = False

    @property
    def objective(self) -> Objective:
        return Objective(metric=self.metric, goal=Goal.MINIMIZE if self.minimize else Goal.MAXIMIZE)

    @property
    def levels(self) -> tuple[int, ...]:
        """The fidelities that are numbers, ascending."""
        return numbered(self.fidelities)

    def load(self) -> Table:
        """The table, checked for every column that the bench names.

        Raises:
            UserError: it cannot be used.
        """
        table = _load(self.table, self.space)
        columns = [self.metric, self.test_metric, *(column for column, _ in self.fidelities.values())]
        costs = [self.cost, *(cost for _, cost in self.fidelities.values())]
        for column in [*filter(None, columns), *(Cost.parse(cost).column for cost in costs if cost)]:
            table.check(column)
        return table

    def optimum(self, table: Table) -> float:
        """The best value of the metric that the table has."""
        values = table.means(self.metric)
        known = values[~(values != values)]  # noqa: PLR0124  # NaN is no value
        return float(known.min() if self.minimize else known.max())


@lru_cache(maxsize=2)
def _load(path: str, space: str | None) -> Table:
    import json

    return Table.load(path, SearchSpace.from_json(json.loads(space)) if space is not None else "")


@dataclass(frozen=True)
class Trace:
    """One run: after each query (a row that was not asked for before) the row that it would choose, and the time."""

    chosen: list[int]
    seconds: list[float]
    hit: int | None  # the query that found the optimum
    end: str  # why the run ended
    total: float  # its simulated seconds

    def at(self, queries: int) -> int | None:
        """The row chosen after so many queries, or after all where there were fewer; None: after none."""
        return self.chosen[min(queries, len(self.chosen)) - 1] if self.chosen else None


class _Observer:
    """Turns the results of a run into its trace."""

    def __init__(self, bench: Bench, table: Table) -> None:
        self.trace = Trace([], [], None, "", 0.0)
        self.hit: int | None = None
        self._bench, self._table = bench, table
        self._values = table.means(bench.metric)
        self._optimum = bench.optimum(table)
        self._order = {name: rank for rank, name in enumerate(bench.fidelities)}
        self._seen: set[int] = set()
        self._best: tuple[int, float] = (-1, -math.inf)
        self._row = -1

    def see(self, trial: Row, now: float) -> bool:
        """Take in a result; True when it was a query."""
        if trial.state not in (TrialState.SUCCEEDED, TrialState.PRUNED) or self._bench.metric not in trial.metrics:
            return False
        row = self._table.row(trial.architecture or {})
        if row is None:
            return False
        fidelity = trial.params.get(FIDELITY)
        rank = len(self._order) if fidelity is None else self._order.get(_name(fidelity), -1)
        value = trial.metrics[self._bench.metric] * (-1.0 if self._bench.minimize else 1.0)
        if (rank, value) > self._best:
            self._best, self._row = (rank, value), row
        new = row not in self._seen
        if new:
            self._seen.add(row)
            self.trace.chosen.append(self._row)
            self.trace.seconds.append(now)
        elif self.trace.chosen:
            self.trace.chosen[-1] = self._row  # a higher fidelity of a known row may change the choice
        full = fidelity is None or self._bench.fidelities.get(_name(fidelity), ("",))[0] == self._bench.metric
        if self.hit is None and full and self._values[row] == self._optimum:
            self.hit = len(self._seen)
        return new


def _name(fidelity: Any) -> str:
    return f"{fidelity:g}" if isinstance(fidelity, float) else str(fidelity)


def run_seed(bench: Bench, name: str, config: JsonObject, seed: int) -> Trace:
    """One strategy, one seed.

    A repeat of a row and an infeasible trial are free: the budget of trials grows by them, as long as new rows come.

    Raises:
        UserError, StrategyError: from the table or the strategy.
    """
    table = bench.load()
    evaluator = Tabular(
        TabularConfig(
            table=bench.table,
            metric=bench.metric,
            cost=bench.cost,
            fidelities={key: Fidelity(metric=metric, cost=cost) for key, (metric, cost) in bench.fidelities.items()},
            continued=bench.continued,
            proxies=ProxyTable(table=bench.proxies) if bench.proxies else None,
        ),
        table,
    )
    observer = _Observer(bench, table)
    goal = bench.queries or len(table)

    def result(trial: Row, now: float) -> None:
        new = observer.see(trial, now)
        enough = new and len(observer.trace.chosen) >= goal
        if enough or (bench.to_optimum and observer.hit is not None):
            simulation.stop()

    simulation = Simulation(
        named_strategy(name, config, bench.levels),
        table.space,
        [bench.objective],
        table_answers(evaluator),
        seed=seed,
        budget=_budget(bench, bench.queries or MOST_TRIALS),
        parallelism=bench.parallel,
        on_result=result,
    )
    queries, since = -1, 0  # rows known when the budget was raised last, and trials when the newest row came
    while True:
        end = simulation.end()
        if end is None:
            simulation.step()
            continue
        known, counted = len(observer.trace.chosen), simulation.table.counted
        if known > queries:
            queries, since = known, counted
        if end.reason != reasons.MAX_TRIALS_REACHED or counted >= min(MOST_TRIALS, since + _STUCK):
            break
        simulation.change(budget=_budget(bench, counted + min(goal - known, _STUCK)))
    return Trace(observer.trace.chosen, observer.trace.seconds, observer.hit, end.reason, simulation.clock.now)


def _budget(bench: Bench, trials: int) -> Budget:
    return Budget(max_trials=trials, max_failed_trials=MOST_TRIALS, max_duration_seconds=bench.cost_budget)


def summarize(bench: Bench, table: Table, traces: Sequence[Trace], against: Sequence[Trace] | None) -> JsonObject:
    """The results of one strategy over its seeds.

    Args:
        against: random search's traces; None: there is nothing to compare with.

    Returns:
        ``final`` and ``finalTest`` (a value a seed), ``at`` (mean and standard deviation after so many queries),
        ``queriesToOptimum`` (a seed that misses it counts one more than its budget) and ``p`` (Mann-Whitney).
    """
    most = bench.queries or max((len(trace.chosen) for trace in traces), default=0)
    missed = [trace.hit if trace.hit is not None else (bench.queries or len(trace.chosen)) + 1 for trace in traces]
    marks = sorted({mark for mark in MARKS if mark < most} | {most})
    return {
        "final": values(bench, table, traces, most, bench.metric),
        "finalTest": values(bench, table, traces, most, bench.test_metric),
        "at": {str(mark): _at(bench, table, traces, against, mark) for mark in marks},
        "queriesToOptimum": {
            "mean": fmean(missed),
            "median": median(missed),
            "share": sum(trace.hit is not None for trace in traces) / len(traces),
        },
        "p": _p(bench, table, traces, against, most),
    }


def values(bench: Bench, table: Table, traces: Sequence[Trace], queries: int, column: str) -> list[float | None]:
    """Of each trace a column's value of the row chosen after so many queries; empty without a column."""
    if not column:
        return []
    known = table.means(column)
    rows = [trace.at(queries) for trace in traces]
    return [None if row is None or math.isnan(known[row]) else float(known[row]) for row in rows]


def _at(bench: Bench, table: Table, traces: Sequence[Trace], against: Sequence[Trace] | None, mark: int) -> JsonObject:
    found: JsonObject = {"metric": spread(values(bench, table, traces, mark, bench.metric))}
    if bench.test_metric:
        found["test"] = spread(values(bench, table, traces, mark, bench.test_metric))
    return found | {"p": _p(bench, table, traces, against, mark)}


def _p(bench: Bench, table: Table, traces: Sequence[Trace], against: Sequence[Trace] | None, mark: int) -> float | None:
    if against is None:
        return None
    sign = -1.0 if bench.minimize else 1.0
    turned = [
        [-math.inf if value is None else sign * value for value in values(bench, table, each, mark, bench.metric)]
        for each in (traces, against)
    ]
    return mann_whitney(*turned)


def spread(found: Sequence[float | None]) -> list[float | None]:
    """Mean and sample standard deviation (0 for one value) of those that there are."""
    there = [value for value in found if value is not None]
    if not there:
        return [None, None]
    return [fmean(there), stdev(there) if len(there) > 1 else 0.0]


def mann_whitney(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The one-sided p-value that `xs` tend to be larger than `ys`: normal approximation, corrected for ties.

    Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the other" (1947).
    1 where all values are equal.
    """
    n, m = len(xs), len(ys)
    ordered = sorted([(x, 0) for x in xs] + [(y, 1) for y in ys])
    ranks, ties, at = 0.0, 0.0, 0
    while at < n + m:
        end = at
        while end < n + m and ordered[end][0] == ordered[at][0]:
            end += 1
        count = end - at
        ties += count**3 - count
        ranks += (at + 1 + end) / 2 * sum(1 - side for _, side in ordered[at:end])
        at = end
    u = ranks - n * (n + 1) / 2
    total = n + m
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1))) if total > 1 else 0.0
    if variance <= 0.0:
        return 1.0
    return 0.5 * math.erfc((u - n * m / 2 - 0.5) / math.sqrt(2 * variance))
