"""Every registered strategy that tries whole architectures, under failures, any parallelism and a restart."""

from __future__ import annotations

from typing import Any

import pytest

from archsearch import registry
from archsearch.protocol import TrialKind, TrialState
from archsearch.space import Rng, SearchSpace
from archsearch.space.choices import Categorical
from archsearch.spec import reasons
from archsearch.spec.experiment import Budget, Objective, StoppingName, StoppingSpec
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.making import named_strategy
from archsearch_strategies.simulate import Answer, Cluster, Point, Simulation

TRIALS = 40
SPACE = SearchSpace([Categorical(f"op{i}", ("a", "b", "c", "d")) for i in range(5)])
NAMES = [
    name
    for name in registry.registered("archsearch.strategies")
    if registry.find("archsearch.strategies", name).kinds == (TrialKind.EVALUATE,)
]


def answer(row: Row) -> Answer:
    """Nine epochs, or as many as the trial names; they tell ever better what the architecture is worth."""
    value = float(sum(ord(str(decision)) - 97 for decision in (row.architecture or {}).values()))
    since, until = (int(row.params.get(key, default)) for key, default in (("resumedFidelity", 0), ("fidelity", 9)))
    second = 1.0 + value / 10
    points = [(epochs, value * epochs / (epochs + 3)) for epochs in range(since + 1, until + 1)]
    curve = tuple(Point((epochs - since) * second, epochs - 1, {"m": reached}) for epochs, reached in points[:-1])
    return Answer({"m": points[-1][1]}, (until - since) * second, curve=curve)


def simulation(name: str, parallelism: int, failures: float, rule: str = "") -> Simulation:
    return Simulation(
        lambda: named_strategy(name, {}, range(1, 10)),
        SPACE,
        [Objective(metric="m")],
        answer,
        seed=parallelism,
        budget=Budget(max_trials=TRIALS, max_failed_trials=TRIALS),
        parallelism=parallelism,
        cluster=Cluster(failures=failures, stragglers=0.1),
        stopping=StoppingSpec(name=StoppingName(rule), config={"grace": 2}) if rule else None,
        record=True,
    )


def history(simulation: Simulation) -> list[tuple[Any, ...]]:
    asked = (r.Submitted, r.Stopped, r.Handed)
    return [
        (each.type, each.number, getattr(each, "hash", "")) for each in simulation.records if isinstance(each, asked)
    ]


@pytest.mark.parametrize("failures", [0.0, 0.2])
@pytest.mark.parametrize("parallelism", [1, 8, 64])
@pytest.mark.parametrize("name", NAMES)
def test_none_stalls_repeats_or_loses_a_trial(name: str, parallelism: int, failures: float) -> None:
    whole = simulation(name, parallelism, failures)
    result = whole.run()
    assert result.end.reason == reasons.MAX_TRIALS_REACHED
    assert all(row.finished for row in result.table.rows.values())
    identities = {row.identity for row in result.table.rows.values()}
    assert len(identities) == len(result.table.rows) == TRIALS
    again = simulation(name, parallelism, failures)
    for _ in range(Rng(f"{name}:{parallelism}").integer(TRIALS)):
        again.step()
    again.restart()
    again.run()
    assert history(again) == history(whole)


@pytest.mark.parametrize("failures", [0.0, 0.2])
@pytest.mark.parametrize("parallelism", [1, 8, 64])
@pytest.mark.parametrize("rule", ["asha", "median"])
@pytest.mark.parametrize("name", ["random", "regularized-evolution", "asha"])
def test_under_a_stopping_rule_none_does_either(name: str, rule: str, parallelism: int, failures: float) -> None:
    whole = simulation(name, parallelism, failures, rule)
    result = whole.run()
    assert result.end.reason == reasons.MAX_TRIALS_REACHED
    assert all(row.finished for row in result.table.rows.values())
    stopped = [row for row in result.table.rows.values() if row.stop]
    few = parallelism == 64 or name == "asha"  # all at once, or only beyond the lowest rung: nobody to compare with
    assert stopped or few
    assert all(row.state in (TrialState.PRUNED, TrialState.FAILED) for row in stopped)
    assert all(row.message.startswith("stopped ") for row in stopped if row.state is TrialState.PRUNED)
    again = simulation(name, parallelism, failures, rule)
    for _ in range(Rng(f"{name}:{rule}:{parallelism}").integer(5 * TRIALS)):
        if again.end() is None:
            again.step()
    again.restart()
    again.run()
    assert history(again) == history(whole)
