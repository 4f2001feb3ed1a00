"""asha and hyperband: rungs, who is promoted and when, and what becomes of what fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from archsearch.errors import UserError
from archsearch.protocol import TrialState
from archsearch.space import Categorical, Rng, SearchSpace
from archsearch.spec.experiment import Objective
from archsearch_strategies.algorithms.asha import ASHA
from archsearch_strategies.algorithms.fidelities import Halving, levels
from archsearch_strategies.algorithms.hyperband import Hyperband
from archsearch_strategies.strategy import CHECKPOINT_OF, AskTell, Trial

SPACE = SearchSpace([Categorical(f"op{i}", ("a", "b", "c", "d")) for i in range(6)])
SMALL = SearchSpace([Categorical("op", ("a", "b", "c")), Categorical("other", ("d", "e"))])
ACCURACY = [Objective(metric="accuracy")]


def value(trial: Trial) -> float:
    """The further trained, the better and the truer."""
    worth = sum(ord(str(decision)) for decision in (trial.architecture or {}).values())
    return worth + 100 * trial.fidelity


def asha(**config: Any) -> ASHA:
    return ASHA(ASHA.Config.model_validate({"maxFidelity": 9, "reduction": 3, **config}))


def hyperband(**config: Any) -> Hyperband:
    return Hyperband(Hyperband.Config.model_validate({"maxFidelity": 9, **config}))


def play(
    strategy: Halving[Any],
    trials: int,
    *,
    space: SearchSpace = SPACE,
    parallelism: int = 1,
    end: Callable[[Trial], TrialState | None] = lambda trial: TrialState.SUCCEEDED,
    seed: int = 0,
) -> list[Trial]:
    """All trials in the order of submission; those that run end in an order drawn from the seed."""
    loop = AskTell(strategy, space, ACCURACY, seed=seed, parallelism=parallelism)
    order = Rng(f"order:{seed}")
    asked: list[Trial] = []
    out: list[Trial] = []
    while len(asked) < trials:
        while (trial := loop.ask()) is not None:
            asked.append(trial)
            out.append(trial)
        if not out:
            break
        trial = out.pop(order.integer(len(out)))
        state = end(trial)
        loop.tell(trial, {"accuracy": value(trial)} if state is not TrialState.FAILED else None, state=state)
    return asked


def by_fidelity(trials: list[Trial]) -> dict[float, int]:
    return dict(sorted(Counter(trial.fidelity for trial in trials).items()))


@pytest.mark.parametrize(
    ("least", "most", "reduction", "known", "expected"),
    [
        (1, None, 3, range(1, 28), [1, 3, 9, 27]),
        (1, 81, 3, (), [1, 3, 9, 27, 81]),
        (1, None, 4, range(1, 13), [3, 12]),
        (2, 20, 3, range(1, 101), [2, 7, 20]),
        (5, None, 3, range(1, 11), [5, 10]),
        (1, None, 4, (12, 200), [12, 200]),
        (1, 200, 4, (3, 12, 50, 200), [3, 12, 50, 200]),
        (1, None, 3, range(1, 2), [1]),
    ],
)
def test_rungs_are_the_fidelities_that_there_are(
    least: int, most: int | None, reduction: int, known: Any, expected: list[int]
) -> None:
    assert levels(least, most, reduction, known) == expected


@pytest.mark.parametrize(
    ("least", "most", "known", "message"),
    [
        (1, None, (), "give maxFidelity"),
        (1, 9, range(1, 3), "the fidelities 1 to 2; between minFidelity 1 and maxFidelity 9 is 2 the highest"),
        (13, None, (3, 12), "the fidelities 3, 12; between minFidelity 13 and maxFidelity 12 there is none"),
    ],
)
def test_impossible_rungs_are_told(least: int, most: int | None, known: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        levels(least, most, 3, known)
    strategy = asha(minFidelity=least, maxFidelity=most)
    strategy.fidelities = known
    assert [message in fault for fault in strategy.check_fidelities()] == [True]


def test_one_rung_is_none() -> None:
    strategy = asha(minFidelity=9)
    assert "nothing to promote to" in strategy.check_fidelities()[0]
    assert asha().check_fidelities() == []
    assert asha().highest_fidelity == 9.0


@pytest.mark.parametrize(
    "config", [{"reduction": 1}, {"minFidelity": 0}, {"minFidelity": 9, "maxFidelity": 3}, {"x": 1}]
)
@pytest.mark.parametrize("kind", [ASHA, Hyperband])
def test_options_are_bounded(kind: Any, config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind.Config.model_validate(config)


@pytest.mark.parametrize("make", [asha, hyperband])
@pytest.mark.parametrize("parallelism", [1, 8, 64])
def test_a_promotion_names_what_it_goes_on_from(make: Any, parallelism: int) -> None:
    asked = play(make(), 400, parallelism=parallelism)
    by_number = {trial.number: trial for trial in asked}
    below = {3: 1, 9: 3}
    promoted = [trial for trial in asked if "resumedFidelity" in trial.params]
    assert promoted
    for trial in promoted:
        source = by_number[trial.params[CHECKPOINT_OF]]
        assert source.hash == trial.hash and source.ok
        assert source.fidelity == trial.params["resumedFidelity"] == below[trial.params["fidelity"]]
    keys = [(trial.hash, trial.fidelity) for trial in asked]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("make", [asha, hyperband])
@pytest.mark.parametrize("parallelism", [1, 8])
def test_the_same_seed_gives_the_same_trials(make: Any, parallelism: int) -> None:
    def once(seed: int) -> list[tuple[str, float]]:
        return [(trial.hash, trial.fidelity) for trial in play(make(), 150, parallelism=parallelism, seed=seed)]

    assert once(1) == once(1)
    assert once(1) != once(2)


def test_asha_promotes_whenever_one_stands_in_the_best_third_and_only_then() -> None:
    """With one worker all results are known before each choice: the rule can be read off the history."""
    asked = play(asha(), 300)
    known: dict[float, list[Trial]] = {1: [], 3: [], 9: []}
    promoted: dict[float, set[str]] = {1: set(), 3: set()}
    for trial in asked[:-1]:
        due = {}
        for fidelity, gone in promoted.items():
            best = sorted(known[fidelity], key=lambda each: (-each.score, each.number))
            due[fidelity] = [each.hash for each in best[: len(best) // 3] if each.hash not in gone]
        source = trial.params.get("resumedFidelity")
        highest = next((fidelity for fidelity in (3, 1) if due[fidelity]), None)
        assert source == highest
        if source is not None:
            assert trial.hash == due[source][0]
            promoted[source].add(trial.hash)
        known[trial.fidelity].append(trial)
    assert by_fidelity(asked)[9] > 20


@pytest.mark.parametrize("parallelism", [1, 8, 64])
def test_asha_keeps_every_worker_busy(parallelism: int) -> None:
    loop = AskTell(asha(), SPACE, ACCURACY, parallelism=parallelism)
    out: list[Trial] = []
    for _ in range(300):
        while (trial := loop.ask()) is not None:
            out.append(trial)
        assert len(out) == parallelism
        trial = out.pop()
        loop.tell(trial, {"accuracy": value(trial)})


def test_asha_takes_like_amounts_of_training_on_each_rung() -> None:
    strategy = asha(maxFidelity=None)
    strategy.fidelities = (12, 200)
    counts = by_fidelity(play(strategy, 500))
    assert int(counts[12] * 12 / 200) <= counts[200] <= 1.5 * counts[12] * 12 / 200


def test_failed_trials_are_not_compared_and_stopped_ones_not_promoted() -> None:
    rng = Rng("ends")
    ends: dict[int, TrialState] = {}

    def end(trial: Trial) -> TrialState:
        states = [TrialState.SUCCEEDED, TrialState.SUCCEEDED, TrialState.FAILED, TrialState.PRUNED]
        ends[trial.number] = states[rng.integer(4)]
        return ends[trial.number]

    for strategy in (asha(), hyperband()):
        ends.clear()
        asked = play(strategy, 400, end=end, parallelism=4)
        assert len(asked) >= 400
        sources = {trial.params[CHECKPOINT_OF] for trial in asked if CHECKPOINT_OF in trial.params}
        assert sources
        assert {ends[number] for number in sources} == {TrialState.SUCCEEDED}


@pytest.mark.parametrize("make", [asha, hyperband])
@pytest.mark.parametrize("parallelism", [1, 8, 64])
def test_an_exhausted_space_ends_with_a_full_training(make: Any, parallelism: int) -> None:
    asked = play(make(), 1000, space=SMALL, parallelism=parallelism)
    assert len({trial.hash for trial in asked}) == 6
    assert by_fidelity(asked)[9] >= 1


@pytest.mark.parametrize("make", [asha, hyperband])
def test_where_all_fails_it_ends_with_the_space(make: Any) -> None:
    asked = play(make(), 1000, space=SMALL, parallelism=3, end=lambda trial: TrialState.FAILED)
    assert len(asked) == 6


@pytest.mark.parametrize("parallelism", [1, 4, 32])
@pytest.mark.parametrize("trials", [4, 6, 9])
def test_the_last_trials_of_a_small_budget_take_the_best_to_the_top(trials: int, parallelism: int) -> None:
    loop = AskTell(asha(), SPACE, ACCURACY, parallelism=min(parallelism, trials - 2))
    loop.run.max_trials = trials
    out: list[Trial] = []
    seen: list[Trial] = []
    while len(seen) < trials:
        while len(seen) < trials and (trial := loop.ask()) is not None:
            out.append(trial)
            seen.append(trial)
        assert out
        trial = out.pop(0)
        loop.tell(trial, {"accuracy": value(trial)})
    assert by_fidelity(seen)[9] == 1


def test_the_brackets_are_the_papers() -> None:
    """Table 1 of Li et al. 2018, for R = 81 and a factor of 3."""
    strategy = hyperband(maxFidelity=81)
    sizes = [81, 27, 9, 3, 1, 34, 11, 3, 1, 15, 5, 1, 8, 2, 5]
    fidelities = [1, 3, 9, 27, 81, 3, 9, 27, 81, 9, 27, 81, 27, 81, 81]
    expected = [each for size, fidelity in zip(sizes, fidelities, strict=True) for each in [fidelity] * size]
    asked = play(strategy, sum(sizes) + 1)
    assert sorted(trial.fidelity for trial in asked[: sum(sizes)]) == sorted(expected)
    rungs = [trial.fidelity for trial in asked[:121]]
    assert Counter(rungs) == {1: 81, 3: 27, 9: 9, 27: 3, 81: 1}
    assert asked[sum(sizes)].fidelity == 1  # the first bracket again


@pytest.mark.parametrize("parallelism", [2, 7, 40])
def test_promotions_before_a_rung_is_complete_are_those_after(parallelism: int) -> None:
    """Whatever comes first, each bracket promotes the best of its rung in the number that the paper says."""
    strategy = hyperband()
    asked = play(strategy, 600, parallelism=parallelism, seed=parallelism)
    first = [trial for trial in asked if trial.fidelity == 1][:9]
    promoted = [trial.hash for trial in asked if trial.fidelity == 3 and trial.hash in {each.hash for each in first}]
    assert sorted(promoted) == sorted(each.hash for each in sorted(first, key=lambda each: -each.score)[:3])


@pytest.mark.parametrize("parallelism", [1, 8, 64])
def test_hyperband_keeps_every_worker_busy(parallelism: int) -> None:
    loop = AskTell(hyperband(), SPACE, ACCURACY, parallelism=parallelism)
    out: list[Trial] = []
    order = Rng("busy")
    for _ in range(300):
        while (trial := loop.ask()) is not None:
            out.append(trial)
        assert len(out) == parallelism
        trial = out.pop(order.integer(len(out)))
        loop.tell(trial, {"accuracy": value(trial)})


@pytest.mark.parametrize("strategy", [asha(), hyperband()])
def test_the_first_architectures_are_the_best_of_earlier_runs(strategy: Halving[Any]) -> None:
    rng = Rng("earlier")
    prior = [(SPACE.sample(rng), {"accuracy": float(number)}) for number in range(20)]
    loop = AskTell(strategy, SPACE, ACCURACY, parallelism=6, prior=prior)
    asked = [loop.ask() for _ in range(6)]
    best = [architecture for architecture, _ in reversed(prior)][:3]
    assert [trial.architecture for trial in asked[:3] if trial] == best
    assert not {trial.hash for trial in asked[3:] if trial} & {SPACE.hash(each) for each, _ in prior}


def test_without_weights_a_promotion_names_none() -> None:
    from archsearch_strategies.strategy import Execution, Result, Submit, strategy_run

    execution = Execution(asha(), strategy_run(SPACE, ACCURACY, seed=0))
    execution.start()
    for number in range(1, 4):
        execution.hand(number, Result(TrialState.SUCCEEDED, {"accuracy": float(number)}, weights=False))
    promoted = execution.outputs()[-1]
    assert isinstance(promoted, Submit)
    assert promoted.trial.params == {"fidelity": 3, "resumedFidelity": 1}
