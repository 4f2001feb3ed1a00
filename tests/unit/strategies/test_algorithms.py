"""The strategies by ask and tell: no driver, no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from archsearch.protocol import TrialState
from archsearch.space import Categorical, Ordinal, SearchSpace
from archsearch.space.known import known_space
from archsearch.spec.experiment import Objective
from archsearch_strategies.algorithms.random import RandomSearch
from archsearch_strategies.algorithms.regularized_evolution import RegularizedEvolution
from archsearch_strategies.strategy import (
    AskTell,
    Execution,
    Result,
    Run,
    Strategy,
    StrategyConfig,
    StrategyError,
    Submission,
    Submit,
    Trial,
    strategy_run,
)

SMALL = SearchSpace([Categorical("op", ("a", "b", "c")), Ordinal("width", (1, 2, 4))])
LARGE = SearchSpace([Categorical(f"op{i}", ("conv", "pool", "skip", "none")) for i in range(10)])
ACCURACY = [Objective(metric="accuracy")]


def good(trial: Trial) -> float:
    return float(sum(value == "conv" for value in (trial.architecture or {}).values()))


def drive(loop: AskTell, trials: int, *, fails: Callable[[Trial], bool] = lambda trial: False) -> list[Trial]:
    """Tell the newest asked first, so that results come out of order."""
    done: list[Trial] = []
    out: list[Trial] = []
    while len(done) < trials:
        while (asked := loop.ask()) is not None:
            out.append(asked)
        if not out:
            break
        trial = out.pop()
        loop.tell(trial, None if fails(trial) else {"accuracy": good(trial)})
        done.append(trial)
    return done


def distance(trial: Trial, other: Trial) -> int:
    """Decisions in which two architectures differ."""
    mine, theirs = dict(trial.architecture or {}), dict(other.architecture or {})
    return sum(mine[name] != theirs[name] for name in mine)


def evolution(**config: Any) -> RegularizedEvolution:
    return RegularizedEvolution(RegularizedEvolution.Config(**config))


@pytest.mark.parametrize("parallelism", [1, 4, 64])
def test_random_tries_each_architecture_once_and_ends(parallelism: int) -> None:
    loop = AskTell(RandomSearch(RandomSearch.Config()), SMALL, ACCURACY, parallelism=parallelism)
    done = drive(loop, 100)
    assert len(done) == len({trial.hash for trial in done}) == SMALL.size() == 9


@pytest.mark.parametrize("parallelism", [1, 5, 50])
def test_evolution_goes_on_at_any_concurrency_and_improves(parallelism: int) -> None:
    done = drive(AskTell(evolution(population=10, sample=5), LARGE, ACCURACY, parallelism=parallelism), 400)
    assert len(done) == 400
    late = [trial.score for trial in done[-50:]]
    assert sum(late) / 50 > 5.5  # 2.5 at random


def test_evolution_survives_failures_and_never_breeds_from_them() -> None:
    loop = AskTell(evolution(population=6, sample=3), LARGE, ACCURACY, parallelism=3)
    done = drive(loop, 300, fails=lambda trial: trial.number % 3 == 0)
    failed = {trial.number for trial in done if trial.state is TrialState.FAILED}
    assert len(done) == 300
    assert len(failed) == 100
    assert all(not trial.ok for trial in done if trial.number in failed)
    assert max(trial.score for trial in done) >= 8


def test_evolution_where_all_fails_keeps_drawing() -> None:
    done = drive(AskTell(evolution(population=4, sample=2), LARGE, ACCURACY), 50, fails=lambda trial: True)
    assert len({trial.hash for trial in done}) == 50


def test_a_child_differs_from_its_parent_by_one_decision() -> None:
    done = drive(AskTell(evolution(population=2, sample=2), LARGE, ACCURACY), 40)
    for index in range(2, 40):
        assert 1 in [distance(done[index], parent) for parent in done[index - 2 : index]]


def test_what_computes_something_known_is_tried_last() -> None:
    cells = known_space("nasbench201")
    assert cells is not None
    done = drive(AskTell(evolution(population=4, sample=2), cells, ACCURACY), 150)
    forms = [cells.hash(trial.architecture or {}, isomorphic=True) for trial in done]
    assert len({*forms[4:]}) == 146  # at random about a quarter would be isomorphic to an earlier one
    tiny = SearchSpace([Categorical(c.name, ("none", "skip_connect")) for c in cells], canonicaliser="nasbench201")
    done = drive(AskTell(evolution(population=4, sample=2), tiny, ACCURACY), 100)
    assert len(done) == len({trial.hash for trial in done}) == tiny.size() == 64


def test_the_oldest_dies_not_the_worst() -> None:
    loop = AskTell(evolution(population=2, sample=2), LARGE, ACCURACY)
    best = loop.ask()
    assert best is not None
    loop.tell(best, {"accuracy": 100.0})
    alive: list[Trial] = []
    while len(alive) < 2 or distance(alive[-1], best) < 2:
        trial = loop.ask()
        assert trial is not None
        loop.tell(trial, {"accuracy": 0.0})
        alive = [*alive[-1:], trial]
    # The best has died of age: the next child is a mutation of one of the two that live.
    child = loop.ask()
    assert child is not None
    assert distance(child, best) > 1
    assert 1 in [distance(child, trial) for trial in alive]
    assert loop.best is best


@pytest.mark.parametrize("strategy", [RandomSearch(RandomSearch.Config()), evolution(population=5, sample=2)])
def test_the_seed_decides(strategy: Strategy[Any]) -> None:
    def hashes(seed: int) -> list[str]:
        return [trial.hash for trial in drive(AskTell(strategy, LARGE, ACCURACY, seed=seed), 30)]

    assert hashes(1) == hashes(1)
    assert hashes(1) != hashes(2)


def test_sample_above_population_names_both() -> None:
    with pytest.raises(ValidationError, match="sample is 9, more than population 5"):
        RegularizedEvolution.Config(population=5, sample=9)
    assert (RegularizedEvolution.Config().population, RegularizedEvolution.Config().sample) == (100, 25)


class Scripted(Strategy[StrategyConfig]):
    """Runs a given coroutine function."""

    def __init__(self, script: Callable[[Run], Any]) -> None:
        super().__init__(StrategyConfig())
        self._script = script

    async def search(self, run: Run) -> None:
        await self._script(run)


def test_a_generation_waits_for_all_and_keeps_the_order() -> None:
    seen: list[list[float]] = []

    async def script(run: Run) -> None:
        for _ in range(2):
            batch = await run.trials(Submission(run.space.sample(run.rng)) for _ in range(3))
            seen.append([trial.score for trial in batch])

    loop = AskTell(Scripted(script), LARGE, ACCURACY)
    for _ in range(2):
        asked = [loop.ask() for _ in range(3)]
        assert loop.ask() is None
        for trial in reversed(asked):
            assert trial is not None
            loop.tell(trial, {"accuracy": float(trial.number)})
    assert seen == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_a_raised_parallelism_is_used_at_once() -> None:
    execution = Execution(RandomSearch(RandomSearch.Config()), strategy_run(LARGE, ACCURACY, seed=0, parallelism=1))
    execution.start()
    assert len(execution.outputs()) == 1
    execution.change(parallelism=4, max_trials=None)
    assert [type(output) for output in execution.outputs()] == [Submit] * 3


def test_memo_gives_json() -> None:
    seen: list[Any] = []

    async def script(run: Run) -> None:
        seen.append(await run.memo(lambda: [1, 2]))
        await run.trial("evaluate", run.space.sample(run.rng))

    assert AskTell(Scripted(script), LARGE, ACCURACY).ask() is not None
    assert seen == [[1, 2]]


def test_a_minimised_objective_turns_round() -> None:
    loop = AskTell(RandomSearch(RandomSearch.Config()), LARGE, [Objective(metric="loss", goal="Minimize")])
    for loss in (3.0, 1.0, 2.0):
        trial = loop.ask()
        assert trial is not None
        loop.tell(trial, {"loss": loss})
    assert loop.best is not None
    assert loop.best.metrics == {"loss": 1.0}


def test_ties_go_to_the_lower_number() -> None:
    loop = AskTell(RandomSearch(RandomSearch.Config()), LARGE, ACCURACY, parallelism=3)
    asked = [loop.ask() for _ in range(3)]
    for trial in reversed(asked):
        assert trial is not None
        loop.tell(trial, {"accuracy": 1.0})
    assert loop.best is asked[0]


async def test_awaiting_anything_else_is_told() -> None:
    import asyncio

    async def script(run: Run) -> None:
        await asyncio.sleep(1)

    with pytest.raises(StrategyError, match="awaits only its run"):
        AskTell(Scripted(script), LARGE, ACCURACY)


def test_faults_of_a_strategy_are_told() -> None:
    async def waits(run: Run) -> None:
        await run.completed()

    async def raises(run: Run) -> None:
        raise KeyError("x")

    with pytest.raises(StrategyError, match="has submitted none"):
        AskTell(Scripted(waits), LARGE, ACCURACY)
    with pytest.raises(StrategyError, match="Scripted raised KeyError"):
        AskTell(Scripted(raises), LARGE, ACCURACY)


def test_pruned_and_infeasible_results() -> None:
    run = strategy_run(LARGE, ACCURACY, seed=0)
    execution = Execution(RandomSearch(RandomSearch.Config()), run)
    execution.start()
    for number, state in ((1, TrialState.PRUNED), (2, TrialState.INFEASIBLE)):
        submitted = execution.outputs()[0]
        assert isinstance(submitted, Submit)
        execution.hand(number, Result(state, {"accuracy": 1.0} if state is TrialState.PRUNED else {}))
        assert submitted.trial.ok is (state is TrialState.PRUNED)
    assert run.best is None
