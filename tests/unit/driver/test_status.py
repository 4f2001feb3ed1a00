"""What others read: status, summary and history stay bounded, stable and true."""

from __future__ import annotations

from pathlib import Path

import pytest

from archsearch.protocol import Assignment, MetricPoint, Outcome, TrialKind, TrialState
from archsearch.spec.experiment import Objective
from archsearch.spec.status import Verdict
from archsearch.store import open_store
from archsearch_strategies.driver import Driver
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.history import history_hash
from archsearch_strategies.driver.status import duration, search_status
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.ledger import read_ledger
from tests.support import fake_worker as fake


def table_of(values: list[tuple[float, float]], order: list[int] | None = None, seconds: float = 1.0) -> TrialTable:
    """A table of finished trials: accuracy, latencyMs; the results come in `order`."""
    table = TrialTable([Objective(metric="accuracy"), Objective(metric="latencyMs", goal="Minimize")])
    for number in range(1, len(values) + 1):
        table.apply(r.Submitted(number=number, kind=TrialKind.EVALUATE, hash=f"{number:064x}"))
    for number in order or range(1, len(values) + 1):
        accuracy, latency = values[number - 1]
        metrics = {"accuracy": accuracy, "latencyMs": latency, "trainSeconds": seconds}
        metrics |= {"latencySpreadMs": seconds, "peakMemoryBytes": 1000 * seconds}
        table.apply(r.Result(number=number, state=TrialState.SUCCEEDED, metrics=metrics, time=seconds))
    return table


def test_best_and_pareto() -> None:
    table = table_of([(0.9, 5.0), (0.9, 4.0), (0.5, 1.0), (0.4, 2.0), (0.9, 4.0)], [5, 4, 3, 2, 1])
    assert [row.number for row in table.best] == [1, 2, 5, 3, 4]  # ties go to the lower number
    assert sorted(row.number or 0 for row in table.pareto) == [3, 5]  # of equals the first to come stays


async def test_the_front_of_nsga2_is_in_summary_and_status(tmp_path: Path) -> None:
    async def evaluate(assignment: Assignment) -> Outcome:
        outcome = await fake.evaluate(assignment)
        width = float((assignment.architecture or {}).get("width", 0))
        return outcome.model_copy(update={"metrics": {**outcome.metrics, "latencyMs": width}})

    objectives = [{"metric": "accuracy"}, {"metric": "latencyMs", "goal": "Minimize"}]
    wanted = fake.experiment("nsga2", {"population": 6}, objectives=objectives, budget={"maxTrials": 40})
    summary = await fake.run(tmp_path, wanted, fake.FakeLauncher(evaluate))
    table = TrialTable(wanted.spec.objectives)
    table.replay(read_ledger(open_store(str(tmp_path))))
    points = {
        number: (row.metrics["accuracy"], -row.metrics["latencyMs"]) for number, row in table.rows.items() if row.values
    }
    assert len(points) == 40
    front = {
        number
        for number, (x, y) in points.items()
        if not any(u >= x and v >= y and (u, v) != (x, y) for u, v in points.values())
    }
    assert len(front) > 1
    assert {trial.number for trial in summary.pareto} == front
    status = search_status(table, max_trials=40, verdict=Verdict(), now=0.0)
    assert {trial.number for trial in status.pareto} == front


def test_the_history_hash_knows_neither_order_nor_time_nor_reuse() -> None:
    values = [(0.1, 1.0), (0.2, 2.0), (0.3, 3.0)]
    whole = history_hash(table_of(values))
    assert whole == history_hash(table_of(values, [3, 1, 2], seconds=9.0))
    assert whole != history_hash(table_of([(0.1, 1.0), (0.2, 2.0), (0.30001, 3.0)]))
    table = table_of(values[:2])
    table.apply(r.Submitted(number=3, kind=TrialKind.EVALUATE, hash=f"{3:064x}"))
    assert history_hash(table) != whole  # an unfinished trial is not in it
    metrics = {"accuracy": 0.3, "latencyMs": 3.0}
    table.apply(r.Result(number=3, state=TrialState.CACHED, metrics=metrics, source=1, time=0.0))
    assert history_hash(table) == whole
    assert history_hash(TrialTable([])) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_elapsed_leaves_out_what_was_no_work() -> None:
    table = TrialTable([Objective(metric="accuracy")])
    opened = {"version": "0", "epoch": 1}
    table.apply(r.Opened(time=100.0, **opened))
    table.apply(r.Suspended(time=110.0))
    table.apply(r.Resumed(time=500.0))
    table.apply(r.Closed(time=505.0))
    assert table.elapsed(10_000.0) == 15.0
    table.apply(r.Opened(time=1000.0, **opened))
    table.apply(r.Submitted(number=1, kind=TrialKind.EVALUATE))
    table.apply(r.Leased(number=1, attempt=1, lease="", epoch=2, counter=1, worker="", job="", time=1007.0))
    table.apply(r.Opened(time=5000.0, **opened))  # the driver before was killed
    assert table.elapsed(5001.0) == 23.0


def test_large_architectures_and_many_metrics_stay_out_of_the_status() -> None:
    table = TrialTable([Objective(metric="accuracy")])
    architecture = {f"choice{i}": "x" * 50 for i in range(1000)}
    for number in range(1, 30):
        table.apply(r.Submitted(number=number, kind=TrialKind.EVALUATE, architecture=architecture))
        metrics = {f"m{i}": 0.1 for i in range(200)} | {"accuracy": float(number)}
        point = MetricPoint(step=number, metrics={}, weights={"c": [0.1] * 1000}, alarm="\N{SNOWMAN}" * 1024)
        table.apply(r.Reported(number=number, points=[point]))
        table.apply(r.Result(number=number, state=TrialState.SUCCEEDED, metrics=metrics, time=0.0))
    status = search_status(table, max_trials=30, verdict=Verdict(message="m" * 4096), now=0.0)
    assert len(status.model_dump_json()) < 64 * 1024
    assert [(alarm.number, alarm.step) for alarm in status.alarms] == [(number, number) for number in range(10, 30)]
    assert (status.best[0].number, status.best[0].value, status.best[0].architecture) == (29, "29.0", {})
    assert status.updated_time == "1970-01-01T00:00:00Z"


def test_the_newest_running_trials_say_how_far_they_are() -> None:
    table = TrialTable([Objective(metric="accuracy")])
    for number in range(1, 10):
        table.apply(r.Submitted(number=number, kind=TrialKind.SUPERNET))
        leased = {"attempt": 1, "lease": "", "epoch": 1, "counter": number, "worker": "", "job": "", "time": 0.0}
        table.apply(r.Leased(number=number, **leased))
        if number != 8:
            points = [MetricPoint(step=step, metrics={"loss": step / 4}) for step in (1, number)]
            table.apply(r.Reported(number=number, points=points))
    table.apply(r.Result(number=9, state=TrialState.SUCCEEDED, metrics={"accuracy": 1.0}, time=0.0))
    running = search_status(table, max_trials=9, verdict=Verdict(), now=0.0).running
    assert [(each.number, each.step, each.metrics) for each in running] == [
        (number, number, {"loss": str(number / 4)}) for number in range(3, 8)
    ]
    assert {each.kind for each in running} == {"supernet"}


def test_records_come_back_from_json() -> None:
    point = MetricPoint(step=1, metrics={"loss": 0.5})
    for record in (
        r.Reported(number=1, points=[point]),
        r.Memo(value={"a": None}),
        r.Facts(parallelism=2, max_trials=3),
    ):
        assert r.parse(record.to_json()) == record
    with pytest.raises(r.LedgerFormatError, match="'invented', format 7"):
        r.parse({"type": "invented", "v": 7})


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def test_a_reader_builds_the_same_table(tmp_path: Path) -> None:
    driver = Driver(fake.experiment(parallelTrials=2), open_store(str(tmp_path)), fake.FakeLauncher())
    summary = await driver.run()
    table = TrialTable(driver.spec.objectives)
    table.replay(read_ledger(open_store(str(tmp_path))))
    assert history_hash(table) == summary.history_hash
    assert table.ended is not None
    samples = {sample.name: sample.value for family in driver.metrics.registry.collect() for sample in family.samples}
    assert samples["archsearch_trials_total"] == 12
    assert samples["archsearch_best_objective"] == summary.best[0].metrics["accuracy"]
    assert samples["archsearch_leases_active"] == 0
