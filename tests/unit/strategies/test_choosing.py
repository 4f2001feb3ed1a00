"""What every strategy that chooses architectures keeps: any concurrency, any space, failures, seeds, replays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from archsearch import registry
from archsearch.protocol import FailureClass, TrialState
from archsearch.space import Architecture, Categorical, Constraint, Ordinal, Rng, SearchSpace, Subset, Term
from archsearch.spec.experiment import Objective
from archsearch_strategies.algorithms.grid import Grid
from archsearch_strategies.algorithms.local_search import LocalSearch
from archsearch_strategies.algorithms.nsga2 import NSGA2
from archsearch_strategies.algorithms.ppo import PPO
from archsearch_strategies.algorithms.predictor import Predictor
from archsearch_strategies.algorithms.regularized_evolution import RegularizedEvolution
from archsearch_strategies.algorithms.tpe import TPE
from archsearch_strategies.strategy import Compute, Execution, Result, Strategy, Submit, Trial, strategy_run

ACCURACY = [Objective(metric="accuracy")]
OPS = ("conv", "pool", "skip", "none")
CELL = SearchSpace([Categorical(f"op{i}", OPS, members=(f"a.{i}", f"b.{i}")) for i in range(8)])
# Every kind of choice, a condition and a constraint.
MIXED = SearchSpace(
    [
        Categorical("block", ("mb", "fused", "plain")),
        Ordinal("width", (16, 24, 32, 48)),
        Ordinal("expand", (2, 4, 6), when=((Term("block", ("mb", "fused")),),)),
        Subset("inputs", (0, 1, 2, 3), 2),
        Subset("skips", ("x", "y", "z"), None),
        Categorical("pool", ("max", "avg"), when=((Term("skips", ("x",)),),)),
    ],
    constraints=[Constraint.forbid("wide plain", Term("block", ("plain",)), Term("width", (48,)))],
)
SMALL = SearchSpace([Categorical("op", ("a", "b", "c")), Ordinal("width", (1, 2, 4))])
SINGLE = SearchSpace([Categorical("op", ("only",))])


def strategies() -> list[Strategy[Any]]:
    return [
        Grid(Grid.Config(shuffle=True)),
        LocalSearch(LocalSearch.Config(initial=5)),
        LocalSearch(LocalSearch.Config.model_validate({"initial": 1, "step": "Best"})),
        NSGA2(NSGA2.Config(population=8)),
        PPO(PPO.Config(trials_per_update=10, hidden=16, learning_rate=0.01)),
        Predictor(Predictor.Config(candidates=40)),
        TPE(TPE.Config(initial=12)),
    ]


def named(strategy: Strategy[Any]) -> str:
    return type(strategy).__name__ + str(getattr(strategy.config, "step", ""))


every = pytest.mark.parametrize("strategy", strategies(), ids=named)


def good(architecture: Architecture | None) -> float:
    """A score that prefers conv, wide and inputs 2 and 3."""
    decisions = (architecture or {}).values()
    return float(sum(2.0 * (d == "conv") + (d == "mb") + (d == 32) + (d == (2, 3)) for d in decisions))


class Play:
    """Drives an execution and records what goes in, as the ledger does."""

    def __init__(
        self,
        strategy: Strategy[Any],
        space: SearchSpace,
        *,
        parallelism: int = 1,
        seed: int = 0,
        objectives: Any = ACCURACY,
    ) -> None:
        self.execution = Execution(strategy, strategy_run(space, objectives, seed=seed, parallelism=parallelism))
        self.submitted: list[Trial] = []
        self.inputs: list[tuple[str, Any]] = []
        self.out: list[Trial] = []
        self.replaying: Iterator[Any] | None = None

    def start(self) -> Play:
        self.execution.start()
        self.take()
        return self

    def take(self) -> None:
        """Collect what it asks for; compute what it waits for."""
        pending = self.execution.outputs()
        while pending:
            for output in pending:
                if isinstance(output, Submit):
                    self.submitted.append(output.trial)
                    self.out.append(output.trial)
                elif isinstance(output, Compute):
                    value = next(self.replaying, None) if self.replaying is not None else None
                    value = output.compute() if value is None else value
                    self.inputs.append(("memo", value))
                    self.execution.answer(value)
            pending = self.execution.outputs()

    def finish(self, trial: Trial, result: Result) -> None:
        self.out.remove(trial)
        self.inputs.append(("hand", (trial.number, result)))
        self.execution.hand(trial.number, result)
        self.take()

    def run(self, trials: int, outcome: Callable[[Trial], Result], rng: Rng) -> Play:
        """Finish random ones of those that are out."""
        for _ in range(trials):
            if not self.out:
                break
            trial = rng.choice(self.out)
            self.finish(trial, outcome(trial))
        return self


def succeed(trial: Trial) -> Result:
    return Result(TrialState.SUCCEEDED, {"accuracy": good(trial.architecture)})


def stumble(trial: Trial) -> Result:
    """One trial in five gives nothing, in all the ways there are; one in five was stopped early."""
    match int(trial.hash[:4], 16) % 20:
        case 0:
            return Result(TrialState.INFEASIBLE)
        case 1:
            return Result(TrialState.FAILED, failure=FailureClass.OUT_OF_MEMORY)
        case 2 | 3:
            return Result(TrialState.FAILED, failure=FailureClass.INFRASTRUCTURE)
        case 4 | 5 | 6 | 7:
            return Result(TrialState.PRUNED, {"accuracy": 0.5 * good(trial.architecture)})
        case _:
            return succeed(trial)


def hashes(play: Play) -> list[str]:
    return [trial.hash for trial in play.submitted]


@every
@pytest.mark.parametrize(("space", "parallelism"), [(CELL, 1), (MIXED, 8), (CELL, 64)])
def test_it_goes_on_at_any_concurrency_and_repeats_nothing(
    strategy: Strategy[Any], space: SearchSpace, parallelism: int
) -> None:
    play = Play(strategy, space, parallelism=parallelism).start()
    for done in range(1, 71):
        play.run(1, stumble, Rng(done))
        assert len(play.out) == parallelism  # no worker idles, none is overbooked
    assert len(play.submitted) == 70 + parallelism
    assert len(set(hashes(play))) == len(play.submitted)


@every
@pytest.mark.parametrize("parallelism", [1, 4])
def test_a_small_space_is_tried_whole_and_ends(strategy: Strategy[Any], parallelism: int) -> None:
    play = Play(strategy, SMALL, parallelism=parallelism).start().run(100, stumble, Rng(0))
    assert len(play.submitted) == len(set(hashes(play))) == SMALL.size()
    assert play.execution.finished


@every
def test_a_space_of_one_architecture(strategy: Strategy[Any]) -> None:
    play = Play(strategy, SINGLE, parallelism=2).start().run(10, succeed, Rng(0))
    assert len(play.submitted) == 1
    assert play.execution.finished


@every
def test_where_all_fails_it_goes_on(strategy: Strategy[Any]) -> None:
    play = Play(strategy, CELL, parallelism=3).start()
    play.run(40, lambda trial: Result(TrialState.FAILED, failure=FailureClass.USER_ERROR), Rng(0))
    assert len(set(hashes(play))) == 43


@every
def test_equal_scores_stop_nothing(strategy: Strategy[Any]) -> None:
    play = Play(strategy, MIXED, parallelism=2).start()
    play.run(40, lambda trial: Result(TrialState.SUCCEEDED, {"accuracy": 1.0}), Rng(0))
    assert len(set(hashes(play))) == 42


@every
def test_the_seed_decides(strategy: Strategy[Any]) -> None:
    first, again, other = (Play(strategy, CELL, seed=seed).start().run(30, succeed, Rng(0)) for seed in (1, 1, 2))
    assert hashes(first) == hashes(again)
    assert hashes(first) != hashes(other)


@every
@pytest.mark.parametrize("parallelism", [1, 6])
def test_a_restart_changes_nothing(strategy: Strategy[Any], parallelism: int) -> None:
    """The recorded results and computed values are fed again; nothing is computed twice, and the rest is the same."""
    whole = Play(strategy, MIXED, parallelism=parallelism).start().run(45, stumble, Rng(3))
    replay = Play(strategy, MIXED, parallelism=parallelism)
    cut = max(index for index, (kind, _) in enumerate(whole.inputs[: len(whole.inputs) // 2]) if kind == "hand")
    replay.replaying = iter([value for kind, value in whole.inputs[:cut] if kind == "memo"])
    replay.start()
    for kind, value in whole.inputs[:cut]:
        if kind == "hand":
            number, result = value
            replay.finish(replay.submitted[number - 1], result)
    assert next(replay.replaying, None) is None
    assert hashes(replay) == hashes(whole)[: len(replay.submitted)]
    replay.replaying = None
    for kind, value in whole.inputs[cut:]:
        if kind == "hand":
            number, result = value
            replay.finish(replay.submitted[number - 1], result)
    assert hashes(replay) == hashes(whole)


@every
def test_more_workers_are_used_at_once(strategy: Strategy[Any]) -> None:
    play = Play(strategy, CELL).start().run(25, succeed, Rng(0))
    play.execution.change(parallelism=5, max_trials=None)
    play.take()
    assert len(play.out) == 5
    play.execution.change(parallelism=2, max_trials=None)
    play.run(3, succeed, Rng(0))
    assert len(play.out) == 2


@pytest.mark.parametrize("strategy", [each for each in strategies() if not isinstance(each, Grid)], ids=named)
def test_it_finds_better_than_chance(strategy: Strategy[Any]) -> None:
    """A random cell scores 4 in the mean (2 for each of the convolutions, one in four of eight), the best 16."""
    play = Play(strategy, CELL, parallelism=2).start().run(120, succeed, Rng(0))
    late = [good(trial.architecture) for trial in play.submitted[60:]]
    assert sum(late) / len(late) > 6.0


def test_all_are_registered_with_bounds_descriptions_and_a_paper() -> None:
    names = {"grid", "local-search", "nsga2", "ppo", "predictor", "random", "regularized-evolution", "tpe"}
    assert names <= set(registry.registered("archsearch.strategies"))
    for strategy in (Grid, LocalSearch, NSGA2, PPO, Predictor, RegularizedEvolution, TPE):
        assert any(year in (strategy.__doc__ or "") for year in ("20", "17", "19"))
        for field in strategy.Config.model_fields.values():
            assert field.description
            assert field.annotation in (bool,) or field.metadata or not isinstance(field.default, int | float)


@every
def test_several_objectives_only_where_it_is_made_for_them(strategy: Strategy[Any]) -> None:
    assert type(strategy).several_objectives is isinstance(strategy, Grid | NSGA2)
