"""The parts of the strategies: encodings, the Gaussian process, Pareto ranks, the policy, permutations."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from archsearch.protocol import TrialState
from archsearch.space import Categorical, Ordinal, Rng, SearchSpace, Subset, Term
from archsearch.spec.experiment import Objective
from archsearch_strategies.algorithms.features import Features
from archsearch_strategies.algorithms.gaussian import GaussianProcess, expected_improvement, normal_scores
from archsearch_strategies.algorithms.grid import Grid
from archsearch_strategies.algorithms.guided import History
from archsearch_strategies.algorithms.local_search import LocalSearch
from archsearch_strategies.algorithms.nsga2 import NSGA2, ranked
from archsearch_strategies.algorithms.permutation import Permutation
from archsearch_strategies.algorithms.ppo import PPO, Episode
from archsearch_strategies.algorithms.predictor import Predictor
from archsearch_strategies.algorithms.random import RandomSearch
from archsearch_strategies.algorithms.slots import Slots, Writer
from archsearch_strategies.algorithms.tpe import TPE
from archsearch_strategies.strategy import AskTell, Strategy, Trial

TREE = SearchSpace(
    [
        Categorical("block", ("mb", "plain")),
        Ordinal("expand", (2, 4, 6), when=((Term("block", ("mb",)),),)),
        Subset("inputs", ("a", "b", "c", "d"), 2),
        Subset("skips", (0, 1), None),
    ]
)
CELL = SearchSpace([Categorical(f"op{i}", ("conv", "pool", "skip")) for i in range(6)])


def told(strategy: Strategy[Any], space: SearchSpace, number: int, score: Any, *, seed: int = 0) -> list[Trial]:
    """That many trials one after the other, with metrics by `score`."""
    goals = [Objective(metric="a"), Objective(metric="b")] if strategy.several_objectives else [Objective(metric="a")]
    loop, done = AskTell(strategy, space, goals, seed=seed), list[Trial]()
    while len(done) < number and (trial := loop.ask()) is not None:
        loop.tell(trial, score(trial.architecture))
        done.append(trial)
    return done


# --- grid


def test_a_grid_is_in_the_order_of_the_space_from_any_position_on() -> None:
    everything = list(TREE.enumerate())
    tried = told(Grid(Grid.Config(start=5, count=7)), TREE, 100, lambda a: {"a": 0.0, "b": 0.0})
    assert [trial.architecture for trial in tried] == everything[5:12]


def test_a_shuffled_grid_is_whole_and_goes_on_at_any_position() -> None:
    whole = told(Grid(Grid.Config(shuffle=True)), TREE, 1000, lambda a: {"a": 0.0, "b": 0.0})
    assert len({trial.hash for trial in whole}) == len(whole) == TREE.size()
    assert [trial.architecture for trial in whole] != list(TREE.enumerate())
    rest = told(Grid(Grid.Config(shuffle=True, start=30)), TREE, 1000, lambda a: {"a": 0.0, "b": 0.0})
    assert [trial.hash for trial in rest] == [trial.hash for trial in whole[30:]]


def test_a_grid_of_a_vast_space_starts_at_once() -> None:
    vast = SearchSpace([Categorical(f"op{i}", ("a", "b", "c", "d")) for i in range(200)])
    tried = told(Grid(Grid.Config(shuffle=True, start=10**100)), vast, 5, lambda a: {"a": 0.0, "b": 0.0})
    assert len({trial.hash for trial in tried}) == 5


def test_a_grid_leaves_out_what_a_predicate_refuses() -> None:
    space = SearchSpace([*CELL], predicates={"few": lambda a: list(a.values()).count("conv") < 2})
    for shuffle in (False, True):
        tried = told(Grid(Grid.Config(shuffle=shuffle)), space, 1000, lambda a: {"a": 0.0, "b": 0.0})
        assert len(tried) == 2**6 + 6 * 2**5


def test_a_grid_beyond_the_end_is_refused() -> None:
    (problem,) = Grid(Grid.Config(start=10**6)).check(TREE)
    assert "start is 1000000" in problem
    assert f"0 … {TREE.size() - 1}" in problem
    assert Grid(Grid.Config()).check(TREE) == []


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 1000])
def test_a_permutation_takes_each_number_once(n: int) -> None:
    permutation = Permutation(n, Rng(1))
    order = [permutation[i] for i in range(n)]
    assert sorted(order) == list(range(n))
    assert n < 16 or order != [Permutation(n, Rng(2))[i] for i in range(n)]
    with pytest.raises(IndexError, match="not"):
        permutation[n]


# --- local search


def test_local_search_climbs_to_the_top_and_starts_anew() -> None:
    """Every decision counts for itself, so each climb ends at the best cell within its 12 neighbours a step."""
    tried = told(
        LocalSearch(LocalSearch.Config(initial=1)), CELL, 729, lambda a: {"a": float(list(a.values()).count("conv"))}
    )
    assert len(tried) == 729
    assert max(tried[:60], key=lambda trial: trial.score).score == 6.0


def test_a_climb_moves_by_one_decision_to_something_better() -> None:
    tried = told(
        LocalSearch(LocalSearch.Config.model_validate({"initial": 1, "step": "Best"})),
        CELL,
        13,
        lambda a: {"a": float(list(a.values()).count("conv"))},
    )
    first = dict(tried[0].architecture or {})
    for trial in tried[1:]:
        assert sum(first[name] != decision for name, decision in (trial.architecture or {}).items()) == 1


# --- predictor


def test_features_have_one_scale_and_tell_architectures_apart() -> None:
    for space in (TREE, CELL):
        features = Features(space, Rng(0))
        everything = features.of(space.enumerate())
        assert len(np.unique(everything.round(9), axis=0)) == space.size()
        assert len(features.groups) == everything.shape[1]
        distance = 2.0 * everything.var(axis=0).sum()
        assert 0.8 < distance < 1.25


def test_features_of_a_wide_space_share_scales() -> None:
    wide = SearchSpace([Categorical(f"op{i}", ("a", "b", "c")) for i in range(100)])
    groups = Features(wide, Rng(0)).groups
    assert len(groups) == 303
    assert set(groups) == set(range(int(groups.max()) + 1))
    assert groups.max() < 48


def test_a_gaussian_process_learns_which_decisions_matter() -> None:
    features, rng = Features(CELL, Rng(0)), Rng(5)
    sample = [CELL.sample(rng) for _ in range(80)]
    truth = np.array([float(a["op0"] == "conv") - 2.0 * (a["op1"] == "pool") for a in sample])
    targets = truth[:60] - truth[:60].mean()
    model = GaussianProcess(features.of(sample[:60]), targets, features.groups, [])
    assert np.corrcoef(model.mean(features.of(sample[60:])), truth[60:])[0, 1] > 0.97
    weights = np.exp(model.scales[:-1])
    assert weights[1] > 2 * weights[3]  # op1 against op3, which does nothing


def test_what_is_believed_lowers_the_variance_and_not_the_mean() -> None:
    features, rng = Features(CELL, Rng(0)), Rng(6)
    known, pending = [CELL.sample(rng) for _ in range(20)], [CELL.sample(rng) for _ in range(2)]
    targets = normal_scores(np.array([float(a["op0"] == "conv") + rng.random() for a in known]))
    model = GaussianProcess(features.of(known), targets, features.groups, [])
    mean, covariance = model.posterior(features.of(pending))
    model.believe(features.of(pending))
    after, less = model.posterior(features.of(pending))
    assert after == pytest.approx(mean, abs=1e-2)
    assert (np.diag(less) < 0.5 * np.diag(covariance)).all()


def test_normal_scores_are_by_rank_and_equal_values_share_one() -> None:
    scores = normal_scores(np.array([90.0, 10.0, 91.0, 90.0, 91.5]))
    assert scores[1] < scores[0] == scores[3] < scores[2] < scores[4]
    assert scores[4] == pytest.approx(-scores[1])


def test_expected_improvement() -> None:
    value = expected_improvement(np.array([0.0, 1.0, -50.0]), np.array([1.0, 1e-6, 1.0]), 0.0)
    assert value == pytest.approx([1 / math.sqrt(2 * math.pi), 1.0, 0.0], abs=1e-5)


def test_a_window_keeps_the_best_and_the_newest() -> None:
    history = History(10)
    for number in range(1, 101):
        trial = Trial(number, "evaluate", None, "", {}, 0)  # type: ignore[arg-type]
        trial.values = (float(100 - number if number <= 50 else -number),)
        history.add(trial)
    assert [trial.number for trial in history.window()] == [1, 2, 3, 4, 5, 100, 99, 98, 97, 96]
    assert history.usable == 100


@pytest.mark.parametrize("acquisition", ["ExpectedImprovement", "Thompson"])
def test_the_predictor_finds_the_best_of_729_in_60(acquisition: str) -> None:
    config = Predictor.Config.model_validate_json(f'{{"acquisition": "{acquisition}", "candidates": 50}}')
    tried = told(Predictor(config), CELL, 60, lambda a: {"a": sum(v == "conv" for v in a.values()) ** 2.0})
    assert max(trial.score for trial in tried) == 36.0


def test_initial_within_the_window() -> None:
    for config in (Predictor.Config, TPE.Config):
        with pytest.raises(ValidationError, match="initial is 50, more than window 20"):
            config(initial=50, window=20)


# --- tpe


def test_tpe_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    (problem,) = TPE(TPE.Config()).check(CELL)
    assert "pip install 'archsearch[tpe]'" in problem


# --- nsga2


def test_fronts_and_crowding() -> None:
    # (1, 3), (2, 2) and (3, 1) are the front, (1, 2) is dominated by two of them, (1, 1) by all.
    ranks = ranked([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0), (1.0, 2.0), (1.0, 1.0)])
    assert [front for front, _ in ranks] == [0, 0, 0, 1, 2]
    assert [distance for _, distance in ranks[:3]] == [math.inf, 2.0, math.inf]


def test_equal_points_do_not_dominate_each_other() -> None:
    assert [front for front, _ in ranked([(1.0, 1.0), (1.0, 1.0)])] == [0, 0]


def test_nsga2_covers_more_of_the_front_than_chance() -> None:
    """Convolutions are good for one metric, skips for the other: the front are the 11 sums of both to ten."""
    space = SearchSpace([Categorical(f"op{i}", ("conv", "pool", "skip", "none")) for i in range(10)])

    def score(a: Any) -> dict[str, float]:
        values = list(a.values())
        return {"a": float(values.count("conv")), "b": float(values.count("skip"))}

    def near(strategy: Strategy[Any]) -> int:
        tried = told(strategy, space, 400, score)
        return len({trial.values for trial in tried if sum(trial.values) == 10})

    assert near(NSGA2(NSGA2.Config())) >= 5
    assert near(RandomSearch(RandomSearch.Config())) <= 2


# --- ppo


def test_every_architecture_is_one_sequence() -> None:
    slots = Slots(TREE)
    seen = set()
    for architecture in TREE.enumerate():
        actions, allowed = slots.sequence(architecture)
        assert len(actions) == len(allowed) == len(slots) == 6
        writer = Writer(slots)
        for action, options in zip(actions, allowed, strict=True):
            assert writer.allowed == options
            assert action in options or (action == -1 and not options)
            writer.put(action)
        assert TREE.validate(writer.decisions) == architecture
        seen.add(tuple(actions))
    assert len(seen) == TREE.size()


def test_a_policy_is_a_distribution_and_learns_what_is_rewarded() -> None:
    from archsearch_strategies.algorithms.policy import Learner, one_thread

    config = PPO.Config(hidden=16, learning_rate=0.01)
    with one_thread():
        learner = Learner(config, Slots(TREE), seed=0)
        everything = list(TREE.enumerate())

        def chances() -> list[float]:
            return [math.exp(sum(logs)) for logs in learner.log_probabilities(everything)]

        assert sum(chances()) == pytest.approx(1.0, abs=1e-4)
        drawn = [TREE.validate(each) for each in learner.sample(300, Rng(0))]
        wanted = [a["inputs"] == ("b", "d") for a in everything]
        before = sum(chance for chance, yes in zip(chances(), wanted, strict=True) if yes)
        assert sum(a["inputs"] == ("b", "d") for a in drawn) / 300 == pytest.approx(before, abs=0.1)
        for number in range(10):
            batch = [TREE.validate(each) for each in learner.sample(30, Rng(number))]
            logs = learner.log_probabilities(batch)
            rewards = [float(a["inputs"] == ("b", "d")) for a in batch]
            learner.update([Episode(*each) for each in zip(batch, map(tuple, logs), rewards, strict=True)], Rng(number))
        assert sum(chances()) == pytest.approx(1.0, abs=1e-4)
        assert sum(chance for chance, yes in zip(chances(), wanted, strict=True) if yes) > 2 * before


def test_advantages_go_back_from_the_last_filled_slot() -> None:
    import torch

    from archsearch_strategies.algorithms.policy import _estimate

    values = torch.tensor([[0.5, 0.2, 9.0]])
    filled = torch.tensor([[True, True, False]])
    advantages, returns = _estimate(torch.tensor([1.0]), values, filled, 0.9, 0.5)
    last = 1.0 - 0.2
    first = (0.9 * 0.2 - 0.5) + 0.9 * 0.5 * last
    assert advantages[0, :2].tolist() == pytest.approx([first, last])
    assert returns[0, :2].tolist() == pytest.approx([first + 0.5, 1.0])


def test_the_predictor_learns_what_is_infeasible() -> None:
    """Two pools or more are infeasible, though their neighbours are the best."""

    def score(a: Any) -> dict[str, float] | None:
        pools = list(a.values()).count("pool")
        return None if pools > 1 else {"a": float(list(a.values()).count("conv") + 3 * pools)}

    loop = AskTell(Predictor(Predictor.Config(candidates=50)), CELL, [Objective(metric="a")], seed=1)
    states: list[bool] = []
    for _ in range(40):
        trial = loop.ask()
        assert trial is not None
        metrics = score(trial.architecture)
        loop.tell(trial, metrics, state=TrialState.INFEASIBLE if metrics is None else TrialState.SUCCEEDED)
        states.append(metrics is not None)
    assert loop.best is not None
    assert loop.best.score == 8.0
    assert sum(states[24:]) >= 10  # by chance one in three
