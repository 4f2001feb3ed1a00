"""What strategies make of prior points, and how these are chosen from earlier runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from archsearch.protocol import TrialKind, TrialState
from archsearch.space import Architecture, ArchitectureError, Categorical, Ordinal, Rng, SearchSpace
from archsearch.spec.experiment import Goal, Objective
from archsearch_strategies.algorithms.grid import Grid
from archsearch_strategies.algorithms.guided import History
from archsearch_strategies.algorithms.local_search import LocalSearch
from archsearch_strategies.algorithms.nsga2 import NSGA2
from archsearch_strategies.algorithms.ppo import PPO
from archsearch_strategies.algorithms.predictor import Predictor
from archsearch_strategies.algorithms.random import RandomSearch
from archsearch_strategies.algorithms.regularized_evolution import RegularizedEvolution
from archsearch_strategies.algorithms.tpe import TPE
from archsearch_strategies.driver import prior as prior_module
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.earlier import EarlierRun
from archsearch_strategies.driver.prior import prior_record, to_points
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.strategy import AskTell, PriorPoint, Strategy, Trial, prior_points

ACCURACY = [Objective(metric="accuracy")]
OPS = ("conv", "pool", "skip", "none")
CELL = SearchSpace([Categorical(f"op{i}", OPS) for i in range(6)])


def quality(architecture: Any) -> float:
    """How many convolutions, with the earlier ones counting more, so that no two counts tie."""
    return sum((decision == "conv") * (1 + index / 10) for index, decision in enumerate(architecture.values()))


def results(count: int, seed: int = 0, space: SearchSpace = CELL) -> list[tuple[Architecture, dict[str, float]]]:
    rng = Rng(seed)
    found = {space.hash(each): each for each in (space.sample(rng) for _ in range(4 * count))}
    return [(each, {"accuracy": quality(each)}) for each in list(found.values())[:count]]


def proposals(strategy: Strategy[Any], count: int, prior: Any = (), parallelism: int = 1) -> list[Architecture]:
    """The first architectures that it tries, each answered before the next is asked for."""
    loop = AskTell(strategy, CELL, ACCURACY, seed=3, parallelism=parallelism, prior=prior)
    found = []
    while len(found) < count and (trial := loop.ask()) is not None:
        assert trial.architecture is not None
        found.append(trial.architecture)
        loop.tell(trial, {"accuracy": quality(trial.architecture)})
    return found


STARTING: list[tuple[Strategy[Any], int]] = [
    (RegularizedEvolution(RegularizedEvolution.Config(population=6, sample=2)), 6),
    (NSGA2(NSGA2.Config(population=6)), 6),
    (LocalSearch(LocalSearch.Config(initial=4)), 4),
    (Predictor(Predictor.Config(initial=5, candidates=40)), 5),
    (TPE(TPE.Config(initial=5)), 5),
    (PPO(PPO.Config(trials_per_update=6, hidden=8)), 6),
]


@pytest.mark.parametrize(("strategy", "starts"), STARTING, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("parallelism", [1, 3])
def test_the_first_proposals_are_the_best_prior_ones(strategy: Strategy[Any], starts: int, parallelism: int) -> None:
    known = results(30)
    best = [architecture for architecture, metrics in sorted(known, key=lambda each: -each[1]["accuracy"])]
    cold = proposals(strategy, starts + 6, parallelism=parallelism)
    warm = proposals(strategy, starts + 6, known, parallelism)
    assert warm[:starts] == best[:starts]
    assert cold[:starts] != best[:starts]
    assert len({CELL.hash(each) for each in warm}) == starts + 6  # and nothing twice after them
    assert warm == proposals(strategy, starts + 6, known, parallelism)


@pytest.mark.parametrize("strategy", [RandomSearch(RandomSearch.Config()), Grid(Grid.Config(shuffle=True))])
def test_the_baselines_ignore_them(strategy: Strategy[Any]) -> None:
    assert proposals(strategy, 8, results(20)) == proposals(strategy, 8)


def test_fewer_prior_points_than_starts() -> None:
    known = results(3)
    strategy = RegularizedEvolution(RegularizedEvolution.Config(population=6, sample=2))
    found = proposals(strategy, 8, [*known, *known])  # one of them twice
    assert {CELL.hash(each) for each in found[:3]} == {CELL.hash(each) for each, _ in known}
    assert len({CELL.hash(each) for each in found}) == 8


@pytest.mark.parametrize(
    ("strategy", "times"),
    [(Predictor(Predictor.Config(initial=4, candidates=60)), 2.0), (TPE(TPE.Config(initial=4)), 1.3)],
    ids=["predictor", "tpe"],
)
def test_fits_learn_of_prior_points(strategy: Strategy[Any], times: float) -> None:
    """Prior points praise `none`, of which this run's own results say nothing: what is proposed has more of it."""

    def share(prior: Any) -> float:
        loop = AskTell(strategy, CELL, ACCURACY, seed=3, prior=prior)
        tried = []
        for _ in range(16):
            trial = loop.ask()
            assert trial is not None
            assert trial.architecture is not None
            tried.append(list(trial.architecture.values()).count("none"))
            loop.tell(trial, {"accuracy": 1.0 + int(trial.hash[:4], 16) / 65536})
        return sum(tried[4:]) / (12 * 6)

    known = [(each, {"accuracy": float(list(each.values()).count("none"))}) for each, _ in results(60)]
    assert share(known) > times * share(())


def test_results_of_their_own_metric_are_refused_in_ask_and_tell() -> None:
    with pytest.raises(ValueError, match="has the metrics loss, and needs accuracy"):
        prior_points(CELL, ACCURACY, [(results(1)[0][0], {"loss": 1.0})])
    with pytest.raises(ArchitectureError, match="op0"):
        prior_points(CELL, ACCURACY, [({"op0": "conf"}, {"accuracy": 1.0})])


def test_a_small_loss_is_a_good_one() -> None:
    objectives = [Objective(metric="loss", goal=Goal.MINIMIZE)]
    points = prior_points(CELL, objectives, [(a, {"loss": m["accuracy"]}) for a, m in results(5)])
    assert [point.metrics["loss"] for point in points] == sorted(point.metrics["loss"] for point in points)


# --- the window of a fit


def point(index: int, score: float, group: int = 0) -> PriorPoint:
    architecture = CELL.at(index)
    return PriorPoint(architecture, CELL.hash(architecture), {"accuracy": score}, (score,), group)


def trial(number: int, index: int, score: float | None) -> Trial:
    architecture = CELL.at(index)
    found = Trial(number, TrialKind.EVALUATE, architecture, CELL.hash(architecture), {}, 0)
    found.state = TrialState.INFEASIBLE if score is None else TrialState.SUCCEEDED
    found.values = () if score is None else (score,)
    return found


def shown(history: History) -> list[tuple[int, float]]:
    return [(each.number, round(each.score, 6)) for each in history.window()]


def test_comparable_points_fill_the_window_as_they_are() -> None:
    history = History(4, [point(0, 0.9), point(1, 0.8), point(2, 0.7)])
    assert shown(history) == [(0, 0.9), (-1, 0.8), (-2, 0.7)]
    assert history.usable == 0  # a first fit waits for results of its own
    history.add(trial(1, 9, 0.85))
    assert shown(history) == [(0, 0.9), (1, 0.85), (-1, 0.8), (-2, 0.7)]
    history.add(trial(2, 1, 0.5))  # this run's result of the second point counts
    assert shown(history) == [(0, 0.9), (1, 0.85), (-2, 0.7), (2, 0.5)]
    history.add(trial(3, 10, None))
    assert shown(history)[-1] == (3, float("-inf"))
    assert len(shown(history)) == 4
    for number in range(4, 8):
        history.add(trial(number, 20 + number, 0.1))
    assert all(number > 0 for number, _ in shown(history))


def test_points_of_another_setting_are_shifted_by_what_both_know() -> None:
    history = History(9, [point(0, 0.4, 1), point(1, 0.3, 1), point(2, 0.2, 1), point(3, 90.0, 2)])
    history.add(trial(1, 9, 0.5))
    assert shown(history) == [(1, 0.5)]  # nothing is comparable yet
    history.add(trial(2, 0, 0.9))
    assert shown(history) == [(2, 0.9), (-1, 0.8), (-2, 0.7), (1, 0.5)]
    history.add(trial(3, 1, 0.7))
    assert shown(history) == [(2, 0.9), (3, 0.7), (-2, 0.65), (1, 0.5)]


# --- from earlier runs to points


def earlier(
    rows: list[tuple[int, dict[str, float], dict[str, Any]]],
    *,
    reuse: str = "same",
    objectives: list[Objective] = ACCURACY,
    kind: TrialKind = TrialKind.EVALUATE,
) -> EarlierRun:
    """A run of (position in the space, metrics, params)."""
    table = TrialTable(objectives)
    for number, (index, metrics, params) in enumerate(rows, 1):
        architecture = CELL.at(index)
        submitted = r.Submitted(
            number=number,
            kind=kind,
            architecture=architecture.to_json(),
            hash=CELL.hash(architecture),
            params=params,
            seed=number,
        )
        table.apply(submitted)
        table.apply(r.Result(number=number, state=TrialState.SUCCEEDED, metrics=metrics, time=0.0))
    return EarlierRun("spec.warmStart[0].uri", "s3://bucket/run", {}, CELL.digest, {}, reuse, table)


def chosen(*runs: EarlierRun, reuse: str = "same", objectives: list[Objective] = ACCURACY) -> list[tuple[Any, ...]]:
    record = prior_record(runs, CELL, objectives, reuse)
    assert [each.architecture.to_json() for each in to_points(record, CELL)] == [p.architecture for p in record.points]
    positions = {CELL.hash(CELL.at(index)): index for index in range(40)}
    return [(positions.get(each.hash, each.hash), *each.values, each.group) for each in record.points]


def rows(*pairs: tuple[int, float], **params: Any) -> list[tuple[int, dict[str, float], dict[str, Any]]]:
    return [(index, {"accuracy": value, "other": 1.0}, params) for index, value in pairs]


def test_comparable_results_come_best_first_and_each_architecture_once() -> None:
    run = earlier(rows((0, 0.1), (1, 0.9), (2, 0.5), (1, 0.8)))
    assert chosen(run) == [(1, 0.9, 0), (2, 0.5, 0), (0, 0.1, 0)]
    other = earlier(rows((2, 0.95), (3, 0.4)))
    assert chosen(run, other) == [(2, 0.95, 0), (1, 0.9, 0), (3, 0.4, 0), (0, 0.1, 0)]


def test_settings_are_groups_of_their_own() -> None:
    assert {group for *_, group in chosen(earlier(rows((0, 0.1))), reuse="")} == {1}  # code or data are not known
    here = earlier(rows((0, 0.5), (1, 0.4)))
    there = earlier(rows((2, 50.0), (0, 40.0), (1, 30.0)), reuse="another")
    # Of what is known comparably the other setting's point is left out.
    assert chosen(here, there) == [(0, 0.5, 0), (2, 50.0, 1), (1, 0.4, 0)]
    rungs = earlier([*rows((0, 0.1), (1, 0.2), (2, 0.3), fidelity=1), *rows((2, 0.6), (1, 0.7), fidelity=3)])
    assert chosen(rungs) == [(1, 0.7, 1), (2, 0.6, 1), (0, 0.1, 2)]


def test_supernets_tell_of_no_architecture() -> None:
    assert chosen(earlier(rows((0, 0.5)), kind=TrialKind.SUPERNET)) == []


def test_of_several_objectives_the_front_comes_first() -> None:
    both = [Objective(metric="accuracy"), Objective(metric="other", goal=Goal.MINIMIZE)]
    data = [(0, 0.9, 9.0), (1, 0.8, 9.5), (2, 0.5, 1.0), (3, 0.4, 2.0)]
    run = earlier([(i, {"accuracy": a, "other": b}, {}) for i, a, b in data], objectives=both)
    assert [each[0] for each in chosen(run, objectives=both)] == [0, 2, 1, 3]


def test_they_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior_module, "POINTS_KEPT", 10)
    run = earlier(rows(*((index, 1 - index / 100) for index in range(30))))
    found = [each[0] for each in chosen(run)]
    assert found[:5] == [0, 1, 2, 3, 4]
    assert found[5:] == [5, 10, 15, 20, 25]  # of the others some of every quality


def test_architectures_that_are_none_any_more_are_left_out() -> None:
    space = SearchSpace([Categorical("op0", OPS), Ordinal("width", (1, 2))])
    record = prior_record([earlier(rows((0, 0.5)))], space, ACCURACY, "same")
    assert record.points == []


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
