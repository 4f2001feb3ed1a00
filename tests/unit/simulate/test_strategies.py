"""Every registered strategy that tries whole architectures, under failures, any parallelism and a restart."""

from __future__ import annotations

from typing import Any

import pytest

from archsearch import registry
from archsearch.protocol import TrialKind
from archsearch.space import Rng, SearchSpace
from archsearch.space.choices import Categorical
from archsearch.spec import reasons
from archsearch.spec.experiment import Budget, Objective
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.trials import Row
from archsearch_strategies.simulate import Answer, Cluster, Simulation

TRIALS = 40
SPACE = SearchSpace([Categorical(f"op{i}", ("a", "b", "c", "d")) for i in range(5)])
NAMES = [
    name
    for name in registry.registered("archsearch.strategies")
    if registry.find("archsearch.strategies", name).kinds == (TrialKind.EVALUATE,)
]


def answer(row: Row) -> Answer:
    value = float(sum(ord(str(decision)) - 97 for decision in (row.architecture or {}).values()))
    return Answer({"m": value}, 10.0 + value)


def simulation(name: str, parallelism: int, failures: float) -> Simulation:
    found = registry.find("archsearch.strategies", name)
    return Simulation(
        lambda: found(found.Config()),
        SPACE,
        [Objective(metric="m")],
        answer,
        seed=parallelism,
        budget=Budget(max_trials=TRIALS, max_failed_trials=TRIALS),
        parallelism=parallelism,
        cluster=Cluster(failures=failures, stragglers=0.1),
        record=True,
    )


def history(simulation: Simulation) -> list[tuple[Any, ...]]:
    asked = (r.Submitted, r.Handed)
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
