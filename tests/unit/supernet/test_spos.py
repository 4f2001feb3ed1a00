"""SPOS: even paths, weights of other paths untouched, resumed to the bit; recalibration; evolution without barriers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.supernets import DATA, equal, final, loop_of, resumed, tiny, trainer_of
from torch import nn

import archsearch
from archsearch import nn as nas
from archsearch.errors import StoreError, UserError
from archsearch.evaluate.kinds import run_kind
from archsearch.evaluate.measuring import Inputs, multiply_adds
from archsearch.nn import describe, fix
from archsearch.protocol import Assignment, FailureClass, TrialKind, TrialState
from archsearch.registry import find
from archsearch.space import Categorical, Ordinal, SearchSpace
from archsearch.space.rng import Rng
from archsearch.spec import reasons
from archsearch.spec.experiment import Budget, Objective
from archsearch.store.checkpoint import TENSORS, write_checkpoint
from archsearch.supernet.paths import PathCosts
from archsearch.trial.context import Infeasible, TrialContext
from archsearch_strategies.algorithms.spos import Spos, SposConfig, SposTrainer
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.simulate import Answer, Simulation
from archsearch_strategies.strategy import SearchFailed

# --- the supernet


class Elastic(nn.Module):
    """Values, layers, batch normalizations and dropout, for 8 x 8 images."""

    def __init__(self) -> None:
        super().__init__()
        width = nas.ValueChoice((2, 4), label="width")
        self.first = nas.Conv2d(1, width, nas.ValueChoice((1, 3), label="kernel"))
        self.norm = nas.BatchNorm2d(width)
        self.act = nas.LayerChoice({"relu": nn.ReLU(), "norm": nn.BatchNorm2d(4)}, label="act")
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2))
        self.wide = nas.Conv2d(width, 4, 1)
        self.last = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> Any:
        return self.last(self.pool(self.act(self.wide(torch.relu(self.norm(self.first(images)))))))


def test_every_path_is_as_likely_as_each_other(tmp_path: Path) -> None:
    trainer = trainer_of(SposTrainer, {}, tmp_path)
    assert isinstance(trainer, SposTrainer)
    paths = [trainer.path(number) for number in range(1500)]
    assert paths[:50] == [trainer.path(number) for number in range(50)]
    choices = trainer.supernet.space.choices
    for choice in choices:
        counts = [sum(path[choice.name] == option for path in paths) for option in choice.options]
        assert chi_square(counts) < 18.5  # 4 degrees, p = 0.001
    pairs = [(path[choices[0].name], path[choices[1].name]) for path in paths]
    assert chi_square([pairs.count((a, b)) for a in choices[0].options for b in choices[1].options]) < 51.2  # 24
    other = trainer_of(SposTrainer, {}, tmp_path / "other", seed=2)
    assert isinstance(other, SposTrainer)
    assert [other.path(number) for number in range(20)] != paths[:20]


def chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def test_a_step_moves_the_sampled_path_alone(tmp_path: Path) -> None:
    """With momentum and weight decay, and after other paths were trained."""
    trainer = trainer_of(SposTrainer, {"weightDecay": 0.1}, tmp_path)
    assert isinstance(trainer, SposTrainer)
    model, bench = trainer.supernet.model, trainer.bench
    of_paths = 0
    for bench.step in range(6):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        trainer.step(0, bench.step)
        path = trainer.path(bench.done)
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        taken = {
            f"{prefix}.{path[name]}."
            for name, layers in trainer.supernet.layers.items()
            for prefix in [key for key, module in model.named_modules() if module in layers]
        }
        of_choices = {n for n in before if any(n.startswith(p.rsplit(".", 2)[0] + ".") for p in taken)}
        assert {name for name in moved & of_choices if not any(name.startswith(p) for p in taken)} == set()
        of_paths += any(name.startswith(prefix) for name in moved for prefix in taken)
        assert {name for name, _ in model.named_parameters()} - of_choices <= moved
    assert of_paths >= 4  # a path may hold a zero that cuts it off


def test_all_training_examples_train_the_weights(tmp_path: Path) -> None:
    trainer = trainer_of(SposTrainer, {}, tmp_path)
    assert len(trainer.bench.weight_part) == DATA["trainSize"]
    with pytest.raises(UserError, match="architectureShare is 0"):
        _ = trainer.bench.architecture_part


def test_paths_keep_a_limit(tmp_path: Path) -> None:
    inputs, model = Inputs((1, 8, 8)), tiny()
    space = describe(model)
    costs = sorted(2 * multiply_adds(fix(model, space.sample(Rng(i))), inputs) for i in range(6))
    limit = {"metric": "flops", "min": costs[1], "max": costs[4]}
    trainer = trainer_of(SposTrainer, {"pathLimit": limit}, tmp_path)
    assert isinstance(trainer, SposTrainer)
    found = [2 * multiply_adds(fix(model, trainer.path(number)), inputs) for number in range(5)]
    assert all(costs[1] <= value <= costs[4] for value in found)
    assert trainer._cost._table is not None
    exact = PathCosts(trainer.supernet, "flops", inputs, device="cpu")
    exact._table = None  # counted one by one
    assert [exact(trainer.path(number)) for number in range(2)] == found[:2]
    assert len(set(found)) > 1
    with pytest.raises(UserError, match=r"pathLimit on params \(min None, max 3.*they cost \d+"):
        trainer_of(SposTrainer, {"pathLimit": {"metric": "params", "max": 3}}, tmp_path / "none")
    with pytest.raises(ValueError, match="no path lies between"):
        SposConfig.model_validate({"pathLimit": {"metric": "macs", "min": 3, "max": 2}})
    with pytest.raises(ValueError, match="needs min, max or both"):
        SposConfig.model_validate({"pathLimit": {"metric": "macs"}})


@pytest.mark.parametrize("build", [tiny, Elastic])
def test_a_search_that_was_killed_ends_with_the_same_bits(tmp_path: Path, build: Callable[[], nn.Module]) -> None:
    undisturbed, found = final(trainer_of(SposTrainer, {}, tmp_path / "whole", build=build))
    again, also = resumed(SposTrainer, {}, tmp_path, at=7, build=build)
    assert equal(undisturbed, again)
    assert found == also == []


# --- inherited accuracy


MODEL_SPACE = {"zoo": {"name": "nasbench201", "args": {"channels": 4, "cells": 1}}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchSpace]:
    """A supernet's checkpoint, as a worker has it after the download, and its space."""
    folder = tmp_path_factory.mktemp("supernet")

    def build() -> nn.Module:
        made: nn.Module = find("archsearch.spaces", "nasbench201")(channels=4, cells=1, input_channels=1)
        return made

    options = {"epochs": 12, "learningRate": 0.1, "clipNorm": 5.0}
    trainer = trainer_of(SposTrainer, options, folder / "trial", build=build)
    loop_of(trainer).run()
    write_checkpoint(folder / "weights", *trainer.bench.shared())
    return folder / "weights", describe(trainer.bench.model())


def inherit(directory: Path, architecture: Any, weights: Path | None, **fields: Any) -> dict[str, float]:
    params = {"checkpointOf": 1, "checkpoint": "trials/1/weights", "batchSize": 32, **fields.pop("params", {})}
    assignment = {
        "experiment": "test",
        "kind": "inherit",
        "number": 2,
        "folder": "trials/2",
        "model_space": MODEL_SPACE,
        "evaluator": {"name": "classification", "config": DATA},
        "objectives": [{"metric": "accuracy"}],
        "storage": {"uri": str(directory)},
        "seed": 3,
        "architecture": architecture,
        "params": params,
        **fields,
    }
    context = TrialContext(Assignment.model_validate(assignment), directory, input_checkpoint=weights)
    return run_kind(context).metrics


def test_recalibration_gives_a_path_its_own_statistics_and_so_its_accuracy(
    tmp_path: Path, trained: tuple[Path, SearchSpace]
) -> None:
    weights, space = trained
    rng = Rng(4)
    with_own, shared = [], []
    for number in range(6):
        architecture = space.sample(rng).to_json()
        with_own.append(inherit(tmp_path / f"own{number}", architecture, weights)["accuracy"])
        zero = {"recalibrate": 0}
        shared.append(inherit(tmp_path / f"as{number}", architecture, weights, params=zero)["accuracy"])
    assert sum(with_own) > sum(shared)
    assert max(with_own) > 0.3
    assert with_own != shared


def test_candidates_are_measured_on_the_same_examples(tmp_path: Path, trained: tuple[Path, SearchSpace]) -> None:
    weights, space = trained
    architecture = space.sample(Rng(8)).to_json()
    one = inherit(tmp_path / "one", architecture, weights, seed=1)
    assert one == inherit(tmp_path / "two", architecture, weights, seed=2)


def test_costs_are_objectives_and_constraints_of_inherited_candidates(
    tmp_path: Path, trained: tuple[Path, SearchSpace]
) -> None:
    weights, space = trained
    architecture = space.sample(Rng(5)).to_json()
    objectives = [{"metric": "accuracy"}, {"metric": "flops", "goal": "Minimize"}]
    found = inherit(tmp_path / "a", architecture, weights, objectives=objectives)
    plain = fix(find("archsearch.spaces", "nasbench201")(channels=4, cells=1, input_channels=1), architecture)
    assert found["flops"] == 2 * multiply_adds(plain, Inputs((1, 8, 8)))
    limits = [{"metric": "flops", "max": str(int(found["flops"]) - 1)}]
    gone = tmp_path / "not-there"  # what costs too much is told before any weights are read
    with pytest.raises(Infeasible, match="flops is"):
        inherit(tmp_path / "b", architecture, gone, constraints=limits)


def test_a_missing_foreign_or_damaged_checkpoint_is_told(tmp_path: Path, trained: tuple[Path, SearchSpace]) -> None:
    weights, space = trained
    architecture = space.default().to_json()
    with pytest.raises(UserError, match=r"needs params\.checkpointOf"):
        inherit(tmp_path / "a", architecture, None)
    foreign = tmp_path / "foreign"
    write_checkpoint(foreign, {"stem.weight": torch.ones(2)}, {})
    with pytest.raises(UserError, match=r"no supernet of NASBench201.*supernet trial of this search space"):
        inherit(tmp_path / "b", architecture, foreign)
    wider = find("archsearch.spaces", "nasbench201")(channels=6, cells=1, input_channels=1)
    write_checkpoint(foreign, wider.state_dict(), {})
    with pytest.raises(UserError, match=r"is \(6, .*\) in it and \(4, .*\) here"):
        inherit(tmp_path / "c", architecture, foreign)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in weights.iterdir():
        data = bytearray(file.read_bytes())
        if file.name == TENSORS:
            data[-3] ^= 1
        (damaged / file.name).write_bytes(bytes(data))
    with pytest.raises(StoreError, match="damaged: its SHA-256"):
        inherit(tmp_path / "d", architecture, damaged)


def test_elastic_candidates_inherit_their_parts_and_are_exported_with_them(tmp_path: Path) -> None:
    """A zoo space with chosen widths, through the checkpoint that holds the largest."""
    args = {"patch": 4, "widths": [8, 12], "depth": [1, 2], "heads": [1, 2], "ratios": [1, 2], "head_width": 4}

    def build() -> nn.Module:
        given = {"classes": 10, "input_channels": 1, "input_size": 8, **args}
        made: nn.Module = find("archsearch.spaces", "elastic-transformer")(**given)
        return made

    trainer = trainer_of(SposTrainer, {"epochs": 1, "batchSize": 80}, tmp_path / "supernet", build=build)
    assert isinstance(trainer, SposTrainer)
    trainer.step(0, 0)
    weights = tmp_path / "weights"
    write_checkpoint(weights, *trainer.bench.shared())
    path = trainer.supernet.space.validate({**trainer.supernet.space.sample(Rng(1)), "width": 8, "heads_0": 1})
    fields = {"model_space": {"zoo": {"name": "elastic-transformer", "args": args}}}
    found = inherit(tmp_path / "a", path.to_json(), weights, **fields)
    trainer.supernet.take(path)
    assert found == trainer.bench.validate(trainer.supernet.model)
    export = {"kind": "export", "params": {"target": "best", "inherited": True}}
    inherit(tmp_path / "b", path.to_json(), weights, **fields, **export)
    model = archsearch.load(tmp_path / "b" / "artifacts")
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(images), trainer.supernet.model.eval()(images))


# --- evolution


SPACE = SearchSpace([Categorical(f"op{i}", ("a", "b", "c", "d")) for i in range(8)])


def value(architecture: Any) -> float:
    return float(sum(ord(str(decision)) - 97 for decision in architecture.values()))


def draw(row: Row) -> float:
    """A number from 0 to 1 that is the candidate's own."""
    return Rng(row.hash).random()


def answering(failures: float = 0.0, infeasible: float = 0.0, costs: bool = False) -> Callable[[Row], Answer]:
    def answer(row: Row) -> Answer:
        if row.kind is TrialKind.SUPERNET:
            return Answer({"trainLoss": 1.0}, 100.0)
        found = value(row.architecture or {})
        if draw(row) < infeasible:
            return Answer(seconds=0.1, state=TrialState.INFEASIBLE, message="flops is 9, outside the constraint")
        if draw(row) < infeasible + failures:
            return Answer(seconds=2.0, state=TrialState.FAILED, failure=FailureClass.USER_ERROR, message="no")
        metrics = {"m": found, **({"cost": sum(d == "d" for d in (row.architecture or {}).values())} if costs else {})}
        return Answer(metrics, 5.0 + draw(row) * 20)

    return answer


def simulation(parallelism: int, answer: Callable[[Row], Answer], objectives: Any = None, **config: Any) -> Simulation:
    options = SposConfig.model_validate(
        {"population": 10, "parents": 4, "crossover": 4, "mutation": 4, "generations": 6, **config}
    )
    return Simulation(
        lambda: Spos(options),
        SPACE,
        objectives or [Objective(metric="m")],
        answer,
        seed=parallelism,
        budget=Budget(max_trials=5000, max_failed_trials=1000),
        parallelism=parallelism,
        record=True,
    )


def history(simulation: Simulation) -> list[tuple[Any, ...]]:
    asked = (r.Submitted, r.Handed)
    return [
        (each.type, each.number, getattr(each, "hash", "")) for each in simulation.records if isinstance(each, asked)
    ]


@pytest.mark.parametrize("failures", [0.0, 0.2])
@pytest.mark.parametrize("parallelism", [1, 8, 64])
def test_evolution_at_any_parallelism_under_failures_and_after_a_restart(parallelism: int, failures: float) -> None:
    whole = simulation(parallelism, answering(failures))
    result = whole.run()
    assert result.end.reason == reasons.SEARCH_FINISHED
    rows = list(result.table.rows.values())
    assert [rows[0].kind, *{row.kind for row in rows[1:]}] == [TrialKind.SUPERNET, TrialKind.INHERIT]
    assert len(rows) == 1 + 10 * 6
    assert len({row.hash for row in rows[1:]}) == 60  # none twice
    assert {row.params["checkpointOf"] for row in rows[1:]} == {1}
    assert {row.input for row in rows[1:]} == {"trials/1/weights"}
    assert any(row.state is TrialState.FAILED for row in rows) == (failures > 0)
    again = simulation(parallelism, answering(failures))
    for _ in range(Rng(f"spos:{parallelism}").integer(50)):
        again.step()
    again.restart()
    again.run()
    assert history(again) == history(whole)


def test_no_worker_waits_for_a_generation() -> None:
    """One straggler a generation does not hold the others up: workers are busy until the last candidates are out."""

    def answer(row: Row) -> Answer:
        found = answering()(row)
        slow = row.kind is TrialKind.INHERIT and (row.number or 0) % 10 == 3
        return Answer(found.metrics, 200.0 if slow else 5.0)

    whole = simulation(8, answer)
    seen = []
    while len(whole.table.rows) < 61:
        whole.step()
        seen.append(sum(not row.finished for row in whole.table.rows.values()))
    assert len(seen) > 30
    assert set(seen[:-1]) == {8}
    whole.run()


def test_children_are_bred_of_the_best_and_never_of_failed_or_infeasible_ones() -> None:
    whole = simulation(1, answering(failures=0.2, infeasible=0.3), mutationProbability=0.0, mutation=0, crossover=10)
    rows = list(whole.run().table.rows.values())[1:]
    assert sum(row.state is not TrialState.INFEASIBLE for row in rows) == 60
    assert len(rows) > 60
    bred = 0
    for place, row in enumerate(rows):
        if sum(each.state is not TrialState.INFEASIBLE for each in rows[:place]) < 10:
            continue
        before = [each for each in rows[:place] if each.state is TrialState.SUCCEEDED]
        parents = sorted(before, key=lambda each: (-each.metrics["m"], each.number))[:4]
        genes = {name: {(each.architecture or {})[name] for each in parents} for name in row.architecture or {}}
        bred += all(decision in genes[name] for name, decision in (row.architecture or {}).items())
    assert bred > 25  # where those parents have no new child left, a random one is tried


def test_evolution_finds_better_paths_than_random_ones() -> None:
    evolved: list[float] = []
    at_random: list[float] = []
    for parallelism in (1, 2, 3, 8):
        for values, config in ((evolved, {}), (at_random, {"crossover": 0, "mutation": 0})):
            best = simulation(parallelism, answering(), generations=20, **config).run().best
            assert best is not None
            values.append(best.metrics["m"])
    assert min(evolved) > max(at_random)
    assert max(evolved) == 24.0


def test_several_objectives_give_a_front_of_inherited_candidates() -> None:
    objectives = [Objective(metric="m"), Objective.model_validate({"metric": "cost", "goal": "Minimize"})]
    whole = simulation(4, answering(costs=True), objectives, generations=20, parents=8)
    front = {(row.metrics["m"], row.metrics["cost"]) for row in whole.run().table.pareto}
    assert max(value for value, cost in front if cost == 0) >= 13.0
    assert max(value for value, _ in front) >= 22.0


def test_constraints_that_nothing_keeps_end_the_search_with_a_reason() -> None:
    result_of = simulation(4, answering(infeasible=1.0))
    with pytest.raises(UserError, match=r"none of the first \d+ candidates keeps spec\.constraints"):
        result_of.run()


def test_given_architectures_are_judged_first() -> None:
    given = [SPACE.sample(Rng(i)).to_json() for i in range(7)]
    whole = simulation(3, answering(), population=7, crossover=0, mutation=0, generations=1, initial=given)
    rows = list(whole.run().table.rows.values())
    assert [dict(row.architecture or {}) for row in rows[1:]] == given
    (problem,) = Spos(SposConfig(initial=[*given, {"op0": "z"}])).check(SPACE)
    assert problem.startswith("strategy.config.initial[7]: ")
    assert "'z'" in problem or '"z"' in problem


def test_the_supernet_does_not_depend_on_how_candidates_are_chosen() -> None:
    one, other = (simulation(1, answering(), **config) for config in ({}, {"population": 20, "generations": 1}))
    found = [next(iter(each.run().table.rows.values())).params for each in (one, other)]
    assert found[0] == found[1]
    assert found[0]["trainer"] == "spos"
    assert SposConfig.model_validate(found[0]["config"]).epochs == 120


def test_a_failed_supernet_ends_the_search() -> None:
    whole = simulation(1, lambda row: Answer(state=TrialState.FAILED, message="the loss is nan"))
    with pytest.raises(SearchFailed, match="the supernet trial 1 is failed: the loss is nan"):
        whole.run()


def test_it_takes_spaces_of_values_and_refuses_impossible_options() -> None:
    assert Spos(SposConfig()).check(SearchSpace([Ordinal("width", (1, 2, 3))])) == []
    with pytest.raises(ValueError, match="more children than the population"):
        SposConfig(population=10)


def test_a_path_limit_may_be_as_large_as_networks_are() -> None:
    limit = SposConfig.model_validate({"pathLimit": {"metric": "macs", "max": 3.3e8}}).path_limit
    assert limit is not None and limit.holds(3.2e8) and not limit.holds(3.4e8)
