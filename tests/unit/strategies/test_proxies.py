"""Strategies that use zero-cost proxies: what is asked, what it changes, when a proxy is dropped."""

from __future__ import annotations

from collections import Counter
from statistics import fmean
from typing import Any

import pytest
from pydantic import ValidationError

from archsearch import registry
from archsearch.protocol import FailureClass, TrialKind, TrialState
from archsearch.space import Rng, SearchSpace
from archsearch.space.choices import Categorical
from archsearch.spec.experiment import Budget, Objective
from archsearch_strategies.algorithms.correlation import rank_correlation
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.making import named_strategy
from archsearch_strategies.simulate import Answer, Cluster, Simulation

SPACE = SearchSpace([Categorical(f"op{i}", ("a", "b", "c", "d")) for i in range(6)])
USES = {
    "random": ["Filter"],
    "regularized-evolution": ["WarmStart", "Filter"],
    "local-search": ["WarmStart", "Filter"],
    "predictor": ["WarmStart", "Feature"],
}
SMALL = {"regularized-evolution": {"population": 10, "sample": 3}, "predictor": {"initial": 6}}


def value(architecture: Any) -> float:
    """0 to 1; the first choices count more."""
    ranks = [ord(str(decision)) - 97 for decision in architecture.values()]
    return sum(rank * (9 - place) for place, rank in enumerate(ranks)) / 117


def scores(architecture: Any) -> dict[str, float]:
    """naswot is good, synflow against it, params hardly anything."""
    noise = Rng(str(sorted(architecture.items()))).random()
    own = value(architecture)
    return {"params": noise + own / 4, "flops": noise, "naswot": own + noise / 5, "synflow": -own, "jacov": own / 9}


def answer(row: Row) -> Answer:
    if row.kind is TrialKind.PROXY:
        names = row.params["proxies"]
        found = [{name: scores(each)[name] for name in names} for each in row.params["architectures"]]
        return Answer(payload={"scores": found, "reasons": {}, "leftOut": {}})
    return Answer({"m": value(row.architecture)})


def simulation(
    name: str, proxies: dict[str, Any] | None, *, trials: int = 40, parallelism: int = 1, seed: int = 0, **more: Any
) -> Simulation:
    config = {**SMALL.get(name, {}), **({"proxies": proxies} if proxies is not None else {})}
    return Simulation(
        lambda: named_strategy(name, config, range(1, 10)),
        SPACE,
        [Objective(metric="m")],
        more.pop("answers", answer),
        seed=seed,
        budget=Budget(max_trials=trials, max_failed_trials=1000),
        parallelism=parallelism,
        record=True,
        **more,
    )


def trained(found: Simulation) -> list[Row]:
    return [row for row in found.table.rows.values() if row.kind is TrialKind.EVALUATE]


def asked(found: Simulation) -> Counter[str]:
    rows = (row for row in found.table.rows.values() if row.kind is TrialKind.PROXY)
    return Counter(SPACE.hash(SPACE.validate(each)) for row in rows for each in row.params["architectures"])


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("parallelism", [1, 8])
def test_no_architecture_is_scored_or_trained_twice(name: str, parallelism: int) -> None:
    found = simulation(name, {"use": USES[name], "candidates": 30}, parallelism=parallelism)
    found.run()
    assert len(trained(found)) == 40
    assert len({row.hash for row in trained(found)}) == 40
    assert asked(found)
    assert max(asked(found).values()) == 1


@pytest.mark.parametrize("name", USES)
def test_good_proxies_help(name: str) -> None:
    def mean(proxies: dict[str, Any] | None) -> float:
        runs = [simulation(name, proxies, trials=10, seed=seed) for seed in range(4)]
        for run in runs:
            run.run()
        return fmean(row.metrics["m"] for run in runs for row in trained(run))

    assert mean({"use": USES[name], "names": ["naswot"]}) > mean(None) + 0.03


def test_a_warm_start_takes_the_best_of_the_candidates() -> None:
    found = simulation("regularized-evolution", {"use": ["WarmStart"], "names": ["jacov"], "candidates": 50}, trials=10)
    found.run()
    first, *others = [row for row in found.table.rows.values() if row.kind is TrialKind.PROXY]
    assert not others
    values = sorted((value(each) for each in first.params["architectures"]), reverse=True)
    assert len(values) == 50
    assert [value(row.architecture) for row in trained(found)] == values[:10]


def test_workers_share_the_scoring() -> None:
    found = simulation("predictor", {"use": ["WarmStart"], "candidates": 40}, parallelism=4, trials=10)
    found.run()
    lengths = [len(row.params["architectures"]) for row in found.table.rows.values() if row.kind is TrialKind.PROXY]
    assert lengths == [10] * 4


@pytest.mark.parametrize("name", USES)
def test_a_proxy_no_better_than_the_parameter_count_is_dropped_with_a_word(name: str) -> None:
    found = simulation(name, {"use": USES[name], "names": ["naswot", "synflow"], "after": 10, "candidates": 30})
    found.run()
    note = found.table.notes["proxies"]
    assert {"params", "flops", "naswot"} <= set(note["rankCorrelation"])
    assert "not better than params" in note["dropped"]["synflow"]
    assert "naswot" not in note["dropped"]
    later = [row for row in found.table.rows.values() if row.kind is TrialKind.PROXY and row.number and row.number > 60]
    assert all("synflow" not in row.params["proxies"] for row in later)


def test_correlations_are_those_with_the_results() -> None:
    found = simulation("random", {"use": ["Filter"], "names": ["naswot"], "after": 16}, trials=16)
    found.run()
    # The last result's correlation is noted when it is handed over.
    rows = trained(found)
    note = found.table.notes["proxies"]
    assert note["results"] == 16
    for name in ("params", "flops", "naswot"):
        expected = rank_correlation(
            [scores(row.architecture)[name] for row in rows], [row.metrics["m"] for row in rows]
        )
        assert note["rankCorrelation"][name] == pytest.approx(expected, abs=1e-4)


def test_where_all_are_dropped_the_search_goes_on_without() -> None:
    found = simulation("random", {"use": ["Filter"], "names": ["synflow"], "after": 5}, trials=30)
    found.run()
    before = [row.number for row in found.table.rows.values() if row.kind is TrialKind.PROXY]
    assert len(trained(found)) == 30
    assert len(before) == 5


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("fails", ["some", "all"])
def test_failing_proxy_trials_stop_no_search(name: str, fails: str) -> None:
    def answers(row: Row) -> Answer:
        if row.kind is TrialKind.PROXY and fails == "all":
            return Answer(state=TrialState.FAILED, failure=FailureClass.USER_ERROR, message="no such data")
        return answer(row)

    cluster = Cluster(failures=0.2) if fails == "some" else None
    found = simulation(name, {"use": USES[name], "candidates": 20}, answers=answers, cluster=cluster, parallelism=3)
    found.run()
    assert len(trained(found)) == 40
    if fails == "all":
        failed = [row for row in found.table.rows.values() if row.kind is TrialKind.PROXY]
        assert 3 <= len(failed) <= 5
        assert "no such data" in found.table.notes["proxies"]["dropped"]["naswot"]


@pytest.mark.parametrize("name", USES)
def test_a_restarted_search_asks_for_the_same(name: str) -> None:
    def history(found: Simulation) -> list[tuple[Any, ...]]:
        kinds = (r.Submitted, r.Noted, r.Handed)
        return [tuple(sorted(each.to_json().items(), key=str)) for each in found.records if isinstance(each, kinds)]

    options = {"use": USES[name], "candidates": 20, "after": 8}
    whole = simulation(name, options)
    whole.run()
    broken = simulation(name, options)
    for _ in range(12):
        broken.step()
    broken.restart()
    broken.run()
    assert str(history(broken)) == str(history(whole))


@pytest.mark.parametrize("name", ["random", "predictor"])
def test_a_use_that_a_strategy_has_not_is_refused(name: str) -> None:
    config = registry.find("archsearch.strategies", name).Config
    other = {"random": "WarmStart", "predictor": "Filter"}[name]
    with pytest.raises(ValidationError, match=f"use {other} is not known to this strategy; it knows {USES[name][0]}"):
        config.model_validate({"proxies": {"use": [other]}})


def test_proxy_trials_are_neither_counted_nor_the_best() -> None:
    found = simulation("random", {"use": ["Filter"]}, trials=6)
    best = found.run().best
    assert found.table.counted == 6
    assert best is not None
    assert best.kind is TrialKind.EVALUATE


def test_rank_correlation_shares_ranks() -> None:
    assert rank_correlation([1, 2, 3, float("-inf")], [10, 20, 30, -5]) == pytest.approx(1.0)
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(0.8660254)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0.0
