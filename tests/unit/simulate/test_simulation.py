"""The simulator: the driver's rules under a simulated clock."""

from __future__ import annotations

from typing import Any

import pytest

from archsearch.errors import NonDeterministic
from archsearch.protocol import FailureClass, TrialState
from archsearch.space import SearchSpace
from archsearch.space.choices import Categorical
from archsearch.spec import reasons
from archsearch.spec.experiment import Budget, Objective
from archsearch.spec.pods import Retries
from archsearch_strategies.algorithms.random import RandomSearch
from archsearch_strategies.algorithms.regularized_evolution import RegularizedEvolution
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.simulate import Answer, Cluster, Point, Simulation, Stalled
from archsearch_strategies.simulate.simulation import STOPPED
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig

SPACE = SearchSpace([Categorical(f"op{i}", ("a", "b", "c", "d")) for i in range(5)])
OBJECTIVES = [Objective(metric="m")]


def value(row: Row) -> float:
    return float(sum(ord(str(decision)) - 97 for decision in (row.architecture or {}).values()))


def answer(row: Row) -> Answer:
    return Answer({"m": value(row)}, 10.0 + value(row))


def evolution() -> RegularizedEvolution:
    return RegularizedEvolution(RegularizedEvolution.Config(population=10, sample=3))


def random_search() -> RandomSearch:
    return RandomSearch(RandomSearch.Config())


def make(strategy: Any = evolution, answers: Any = answer, *, trials: int = 60, **options: Any) -> Simulation:
    options.setdefault("budget", Budget(max_trials=trials, max_failed_trials=1_000_000))
    return Simulation(strategy, SPACE, OBJECTIVES, answers, **options)


def history(simulation: Simulation) -> list[tuple[Any, ...]]:
    """What the strategy asked for and saw, in order."""
    kept = []
    for record in simulation.records:
        if isinstance(record, r.Submitted):
            kept.append(("submitted", record.number, record.hash))
        elif isinstance(record, r.Handed):
            kept.append(("handed", record.number))
    return kept


def test_one_worker_takes_the_sum_of_all_seconds() -> None:
    result = make().run()
    assert result.end.reason == reasons.MAX_TRIALS_REACHED
    assert result.table.counted_finished == 60
    total = sum(10.0 + value(row) for row in result.table.rows.values())
    assert result.seconds == pytest.approx(total)
    assert result.table.gpu_seconds == pytest.approx(total)
    assert result.best is not None
    assert result.best.metrics["m"] == max(value(row) for row in result.table.rows.values())


def test_workers_share_the_time() -> None:
    one, many = make(random_search).run(), make(random_search, parallelism=8).run()
    assert many.table.gpu_seconds / 8 <= many.seconds < one.seconds / 6


def test_fewer_workers_than_trials_at_one_time() -> None:
    result = make(random_search, lambda row: Answer({"m": 0.0}, 1.0), parallelism=8, cluster=Cluster(workers=2)).run()
    assert result.seconds == pytest.approx(30.0)


def test_the_clock_stops_at_the_deadline() -> None:
    budget = Budget(max_trials=1000, max_duration_seconds=100)
    result = make(random_search, lambda row: Answer({"m": 0.0}, 30.0), budget=budget).run()
    assert (result.end.reason, result.seconds) == (reasons.DEADLINE_EXCEEDED, 100.0)
    assert result.table.counted_finished == 3


def test_gpu_seconds_are_a_budget_of_all_trials() -> None:
    budget = Budget(max_trials=1000, max_gpu_seconds=100)
    result = make(random_search, lambda row: Answer({"m": 0.0}, 30.0), budget=budget, parallelism=4).run()
    assert (result.end.reason, result.seconds) == (reasons.BUDGET_EXHAUSTED, 30.0)


def test_equal_trials_share_a_result_at_no_cost() -> None:
    class Twice(Strategy[StrategyConfig]):
        async def search(self, run: Run) -> None:
            first = run.space.sample(run.rng)
            for _ in range(3):
                await run.trial("evaluate", first)

    result = make(Twice(StrategyConfig())).run()
    assert result.end.reason == reasons.SEARCH_FINISHED
    assert [row.state for row in result.table.rows.values()] == [TrialState.SUCCEEDED] + [TrialState.CACHED] * 2
    assert result.seconds == result.table.gpu_seconds == 10.0 + value(result.table.rows[1])


@pytest.mark.parametrize("parallelism", [1, 8, 64])
@pytest.mark.parametrize("failures", [0.0, 0.2])
@pytest.mark.parametrize("strategy", [random_search, evolution])
def test_no_trial_is_lost_or_repeated(strategy: Any, failures: float, parallelism: int) -> None:
    cluster = Cluster(failures=failures, stragglers=0.1, preemptions=0.1, startup_seconds=5.0)
    simulation = make(strategy, trials=150, parallelism=parallelism, cluster=cluster, seed=3, record=True)
    result = simulation.run()
    assert result.end.reason == reasons.MAX_TRIALS_REACHED
    assert sorted(result.table.rows) == list(range(1, 151))
    assert all(row.finished for row in result.table.rows.values())
    submitted = [entry[2] for entry in history(simulation) if entry[0] == "submitted"]
    assert len(set(submitted)) == 150
    failed = result.table.counts[TrialState.FAILED]
    assert (15 <= failed <= 45) if failures else failed == 0
    assert result.table.failures[FailureClass.PREEMPTED] > 5


def test_the_same_seed_gives_the_same_history() -> None:
    def once(seed: int) -> tuple[Any, ...]:
        cluster = Cluster(failures=0.2, stragglers=0.2, preemptions=0.2)
        simulation = make(parallelism=8, cluster=cluster, seed=seed, record=True)
        return history(simulation), simulation.run().seconds, history(simulation)

    assert once(1) == once(1)
    assert once(1) != once(2)


@pytest.mark.parametrize("parallelism", [1, 8])
@pytest.mark.parametrize("steps", [0, 1, 17, 40])
def test_a_restart_changes_nothing(parallelism: int, steps: int) -> None:
    def run(restarts: bool) -> tuple[Any, ...]:
        cluster = Cluster(failures=0.2, stragglers=0.2)
        simulation = make(parallelism=parallelism, cluster=cluster, record=True)
        for _ in range(steps):
            simulation.step()
        if restarts:
            kept = history(simulation)
            simulation.restart()
            assert history(simulation)[: len(kept)] == kept
        return simulation.run().seconds, history(simulation)

    assert run(restarts=True) == run(restarts=False)


def test_a_restart_tells_of_another_strategy() -> None:
    strategies = iter([evolution(), RegularizedEvolution(RegularizedEvolution.Config(population=20, sample=20))])
    simulation = make(lambda: next(strategies), record=True)
    for _ in range(30):
        simulation.step()
    with pytest.raises(NonDeterministic, match="the ledger has trial"):
        simulation.restart()


def test_preempted_trials_go_on_from_their_checkpoints() -> None:
    def run(checkpoints: bool) -> Any:
        return make(random_search, cluster=Cluster(preemptions=0.5, checkpoints=checkpoints)).run()

    kept, lost, calm = run(checkpoints=True), run(checkpoints=False), make(random_search).run()
    assert kept.seconds == pytest.approx(calm.seconds)
    assert lost.seconds > 1.2 * calm.seconds
    assert {row.hash for row in kept.table.rows.values()} == {row.hash for row in calm.table.rows.values()}


def test_failures_are_retried_by_their_class() -> None:
    cluster = Cluster(failures=0.3, failure=FailureClass.INFRASTRUCTURE)
    result = make(random_search, cluster=cluster).run()
    assert result.table.counts[TrialState.FAILED] == 0
    assert result.table.failures[FailureClass.INFRASTRUCTURE] > 5
    never = make(random_search, cluster=cluster, retries=Retries(infrastructure=0)).run()
    assert never.table.counts[TrialState.FAILED] > 5


def test_too_many_failures_end_the_search() -> None:
    budget = Budget(max_trials=100, max_failed_trials=2)
    result = make(random_search, lambda row: Answer(state=TrialState.FAILED, message="boom"), budget=budget).run()
    assert result.end.reason == reasons.TOO_MANY_FAILED_TRIALS
    assert "boom" in result.end.message


def test_infeasible_trials_have_no_result() -> None:
    def answers(row: Row) -> Answer:
        return answer(row) if value(row) > 7 else Answer(seconds=0.0, state=TrialState.INFEASIBLE, message="none")

    result = make(evolution, answers).run()
    assert result.table.counts[TrialState.INFEASIBLE] > 5
    assert result.table.counts[TrialState.SUCCEEDED] + result.table.counts[TrialState.INFEASIBLE] == 60


def test_a_strategy_stops_a_running_trial() -> None:
    class Stops(Strategy[StrategyConfig]):
        async def search(self, run: Run) -> None:
            long, short = (run.submit("evaluate", run.space.at(index)) for index in (1, 0))
            done = await run.completed()
            assert done is short
            run.stop(long)
            assert (await run.completed()).state is TrialState.PRUNED

    def answers(row: Row) -> Answer:
        curve = tuple(Point(float(step), step, {"m": float(step)}) for step in range(1, 100))
        return Answer({"m": 100.0}, 100.0, curve=curve) if value(row) else Answer({"m": 0.0}, 9.5)

    result = make(Stops(StrategyConfig()), answers, parallelism=2, cluster=Cluster(stop_seconds=2.0)).run()
    assert (result.table.rows[1].state, result.table.rows[1].metrics) == (TrialState.PRUNED, {"m": 10.0})
    assert result.seconds == 10.0  # its next report hears of it, at the latest after stop_seconds


def test_computations_take_no_time_and_their_values_are_json() -> None:
    class Computes(Strategy[StrategyConfig]):
        async def search(self, run: Run) -> None:
            assert await run.memo(lambda: (1, 2)) == [1, 2]
            await run.trial("evaluate", run.space.at(0))

    assert make(Computes(StrategyConfig())).run().seconds == 10.0


def test_the_budget_and_the_parallelism_may_change() -> None:
    simulation = make(random_search, trials=10)
    while simulation.end() is None:
        simulation.step()
    simulation.change(parallelism=4, budget=Budget(max_trials=30))
    assert simulation.run().table.counted_finished == 30
    assert simulation.table.facts == r.Facts(parallelism=4, max_trials=30)


def test_it_can_be_told_to_stop() -> None:
    seen: list[int] = []

    def result(row: Row, now: float) -> None:
        seen.append(row.number or 0)
        if len(seen) == 5:
            simulation.stop()

    simulation = make(random_search, on_result=result)
    assert simulation.run().end.reason == STOPPED
    assert seen == [1, 2, 3, 4, 5]


def test_waiting_for_nothing_is_told() -> None:
    class Waits(Strategy[StrategyConfig]):
        async def search(self, run: Run) -> None:
            run.parallelism = 0
            async for _ in run.steady(lambda: None):
                pass
            from archsearch_strategies.strategy.run import _pause

            await _pause()

    with pytest.raises(Stalled, match="after 0 trials the strategy waits"):
        make(Waits(StrategyConfig())).run()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"failures": 1.5}, "share from 0 to 1"), ({"slowdown": 0.5}, "at least 1"), ({"preemptions": 1.0}, "ever end")],
)
def test_impossible_clusters_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cluster(**options)  # type: ignore[arg-type]
