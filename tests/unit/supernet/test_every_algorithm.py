"""What holds of every registered one-shot strategy: a whole search, what is refused, and what divergence is told as."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from support.supernets import final, loop_of, tiny, trainer_of
from torch import Tensor, nn

from archsearch import nn as nas
from archsearch.errors import ArchsearchError, BadMetric, UserError
from archsearch.evaluate.kinds import run_kind
from archsearch.nn import describe, fix
from archsearch.protocol import Assignment, FailureClass, Outcome, TrialKind, TrialState
from archsearch.registry import find
from archsearch.space import Constraint, SearchSpace, Term
from archsearch.spec.load import load_experiment
from archsearch.supernet.optimization import WeightOptimizer
from archsearch.supernet.options import SupernetConfig
from archsearch.trial.context import TrialContext
from archsearch_strategies.algorithms.oneshot import OneShot
from archsearch_strategies.checks import check_experiment
from archsearch_strategies.ledger import read_ledger
from tests.support import fake_worker as fake

EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "oneshot").rglob("*.yaml"))
CONTROLLED = {"controllerSteps": 1, "controllerSamples": 1, "samples": 2}
QUICK: dict[str, dict[str, Any]] = {
    "cdarts": {"epochs": 3, "warmupEpochs": 1},
    "darts": {},
    "enas": CONTROLLED,
    "gdas": {},
    "pc-darts": {"partialChannels": 2, "warmupEpochs": 0},
    "pdarts": {"warmupEpochs": 0, "depths": [1, 1], "keep": [3], "skipDropouts": [0.0, 0.4]},
    "proxylessnas": {"warmupEpochs": 0, "architectureEvery": 1, "architectureShare": 0.5},
    "spos": {"population": 2, "generations": 1, "parents": 1, "crossover": 0, "mutation": 0},
    "textnas": CONTROLLED,
}
MIXING = sorted(set(QUICK) - {"enas", "textnas", "spos"})
"""Those that cannot take a choice of values."""
PENALISED = sorted(set(QUICK) - {"spos"})


def one_shot() -> Iterator[tuple[str, type[OneShot[Any]]]]:
    for each in entry_points(group="archsearch.strategies"):
        found = each.load()
        if isinstance(found, type) and issubclass(found, OneShot):
            yield each.name, found


def test_every_one_shot_strategy_is_tested_here() -> None:
    assert {name for name, _ in one_shot()} == set(QUICK)
    assert all(found.trainer == name for name, found in one_shot())


def options(name: str, **more: Any) -> dict[str, Any]:
    return {"epochs": 1, "batchSize": 32, "learningRate": 0.05, **QUICK[name], **more}


def stage_options(name: str, **more: Any) -> dict[str, Any]:
    """The trainer's own: of pdarts those of one stage."""
    given = options(name, **more)
    return {key: value for key, value in given.items() if key not in ("depths", "keep", "skipDropouts")}


# --- a whole search


def worker(folder: Path) -> fake.Evaluate:
    """Trials in this process, as a trial child runs them; weights lie in the directory store."""

    async def evaluate(assignment: Assignment) -> Outcome:
        if assignment.kind is TrialKind.EXPORT:
            return Outcome(state=TrialState.SUCCEEDED, artifacts={"model": str(assignment.params["target"])})
        source = assignment.params.get("checkpoint")
        directory = folder / assignment.folder
        context = TrialContext(
            assignment, directory, threads=1, input_checkpoint=folder / str(source) if source else None
        )
        try:
            result = run_kind(context)
            weights = context.save_final_weights(result.metrics)
        except Exception as error:
            message = str(error) if isinstance(error, ArchsearchError) else traceback.format_exc()
            return Outcome(state=TrialState.FAILED, failure=FailureClass.USER_ERROR, message=message)
        finally:
            context.close()
        artifacts = {"checkpoint": str(weights.relative_to(folder))} if weights is not None else {}
        return Outcome(state=TrialState.SUCCEEDED, metrics=result.metrics, payload=result.payload, artifacts=artifacts)

    return evaluate


def experiment(name: str, **config: Any) -> Any:
    return fake.experiment(
        name,
        options(name, **config),
        modelSpace={"zoo": {"name": "nasbench201", "args": {"channels": 2, "cells": 1}}},
        evaluator={
            "name": "classification",
            "config": {"dataset": "digits", "trainSize": 96, "validationSize": 32, "epochs": 1},
        },
        retrain={"topK": 1, "controls": 1},
        seed=1,
    )


async def test_a_supernet_that_failed_ends_the_search_with_its_words(tmp_path: Path) -> None:
    launcher = fake.FakeLauncher(worker(tmp_path))
    summary = await fake.run(
        tmp_path, experiment("gdas", learningRate=1000.0, weightDecay=100.0, clipNorm=0.0, epochs=6), launcher
    )
    assert (summary.state, summary.reason) == ("Failed", "SearchFailed")
    assert "training diverged; lower learningRate" in summary.message


@pytest.mark.parametrize("name", sorted(QUICK))
async def test_a_search_ends_with_an_answer_and_its_control(name: str, tmp_path: Path) -> None:
    launcher = fake.FakeLauncher(worker(tmp_path))
    summary = await fake.run(tmp_path, experiment(name), launcher)
    assert summary.state == "Succeeded", summary.message
    kinds = [each.kind for each in launcher.granted if each.number]
    supernets = 2 if name == "pdarts" else 1
    assert kinds[:supernets] == [TrialKind.SUPERNET] * supernets
    assert kinds.count(TrialKind.INHERIT) >= 1
    assert kinds.count(TrialKind.RETRAIN) == 2, "the answer's, and a random network's of about its size"
    inherits = [each for each in launcher.granted if each.kind is TrialKind.INHERIT]
    assert {each.params["checkpointOf"] for each in inherits} == {supernets}
    architecture = summary.best[0].architecture
    assert {each.kind for each in summary.best} == {"inherit"}
    assert architecture in [each.architecture for each in inherits]
    assert len(summary.controls) == 1
    assert summary.controls[0].architecture != architecture
    points = [p for each in read_ledger(fake.open_store(str(tmp_path))) for p in each.get("points", [])]
    assert points == [], "these workers report nothing on the way"


# --- what is refused


class Values(nn.Module):
    """A width beside two layers."""

    def __init__(self) -> None:
        super().__init__()
        width = nas.ValueChoice((2, 4), label="width")
        self.first = nas.Conv2d(1, width, 3)
        self.second = nas.Conv2d(width, 2, 1)
        self.act = nas.LayerChoice({"relu": nn.ReLU(), "none": nn.Identity()}, label="act")
        self.head = nn.Linear(2 * 36, 10)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.act(self.second(self.first(images))).flatten(1))
        return found


class Unequal(nn.Module):
    """Candidates of other shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nas.LayerChoice(
            {"keep": nn.Conv2d(1, 4, 3, padding=1), "halve": nn.Conv2d(1, 4, 2, 2)}, label="body"
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(images))
        return found


@pytest.mark.parametrize("name", MIXING)
def test_a_space_of_values_is_refused_before_the_first_trial(name: str) -> None:
    strategy = find("archsearch.strategies", name)
    problems = strategy(strategy.Config.model_validate(options(name))).check(describe(Values()))
    assert problems
    assert "'width'" in problems[0]
    assert "take a strategy that samples (spos, enas" in problems[0]


@pytest.mark.parametrize("name", sorted(set(QUICK) - set(MIXING)))
def test_a_space_of_values_is_taken_by_those_that_sample(name: str, tmp_path: Path) -> None:
    strategy = find("archsearch.strategies", name)
    assert strategy(strategy.Config.model_validate(options(name))).check(describe(Values())) == []
    (weights, _), found = final(trainer_of(find("archsearch.supernets", name), options(name), tmp_path, build=Values))
    assert weights["first.inner.weight"].shape[0] == 4
    assert all(each.architecture["width"] in (2, 4) for each in found)


# pc-darts works on a part of the channels, so that other sentences come first; see its own tests.
@pytest.mark.parametrize("name", [name for name in MIXING if name != "pc-darts"])
def test_candidates_of_unequal_shapes_are_named_before_training(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"choice 'body': candidate 'halve' gives the shape .* a mixture needs equal"):
        trainer_of(find("archsearch.supernets", name), stage_options(name), tmp_path, build=Unequal)


@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_foreign_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    foreign = ({"first.weight": torch.zeros(2, 2)}, {"kept": {}})
    with pytest.raises(UserError, match="the checkpoint is no supernet of NASBench201: it has no"):
        trainer_of(find("archsearch.supernets", name), stage_options(name), tmp_path, source=foreign)


@pytest.mark.parametrize("name", PENALISED)
def test_a_latency_table_with_a_missing_entry_is_refused(name: str, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    rows = {choice.name: dict.fromkeys(choice.options, 1.0) for choice in describe(tiny()).choices}
    del rows["edge_1_2"]["nor_conv_3x3"]
    table.write_text(json.dumps(rows), encoding="utf-8")
    config = stage_options(name, penalties=[{"metric": "latencyMs", "weight": 0.1}], latencyTable=str(table))
    with pytest.raises(UserError, match="'nor_conv_3x3' of choice 'edge_1_2' None; expected milliseconds"):
        trainer_of(find("archsearch.supernets", name), config, tmp_path)


def test_spos_says_where_its_costs_are_bounded() -> None:
    strategy = find("archsearch.strategies", "spos")
    config = strategy.Config.model_validate(options("spos", penalties=[{"metric": "macs", "weight": 0.1}]))
    (problem,) = strategy(config).check(describe(tiny()))
    assert "bound costs by spec.constraints" in problem


# --- numbers


@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_loss_that_is_no_number_fails_the_trial_with_the_reason(name: str, tmp_path: Path) -> None:
    trainer = trainer_of(find("archsearch.supernets", name), stage_options(name), tmp_path)
    poison(trainer)
    with pytest.raises(BadMetric, match=r"training diverged; lower learningRate \(0.05\)"):
        loop_of(trainer).run()


def poison(trainer: Any) -> None:
    """As after a step that was too long."""
    with torch.no_grad():
        for parameter in trainer.supernet.model.parameters():
            parameter.fill_(torch.nan)


@pytest.mark.parametrize("name", ["proxylessnas", "enas"])
def test_chances_that_are_no_numbers_are_told_as_divergence(name: str, tmp_path: Path) -> None:
    """What torch says of a draw by them is no help."""
    trainer: Any = trainer_of(find("archsearch.supernets", name), stage_options(name), tmp_path)
    learned = trainer.alphas if name == "proxylessnas" else trainer.controller
    with torch.no_grad():
        next(learned.parameters()).fill_(torch.nan)
    kept = "alphas" if name == "proxylessnas" else "controller"
    with pytest.raises(
        BadMetric, match=rf"the supernet's {kept}\.\S+ is not finite in epoch 1, step 1: training diverged"
    ):
        loop_of(trainer).run()


def test_errors_of_a_trainer_at_finite_numbers_are_its_own(tmp_path: Path) -> None:
    trainer: Any = trainer_of(find("archsearch.supernets", "spos"), stage_options("spos"), tmp_path)

    def step(epoch: int, number: int) -> None:
        raise ValueError("of another kind")

    trainer.step = step
    with pytest.raises(ValueError, match="of another kind"):
        loop_of(trainer).run()


def test_float16_scales_the_gradients_of_both_alike(tmp_path: Path) -> None:
    """The architecture's are brought to their size; an overflow leaves it where it is."""
    parameter, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    config = SupernetConfig.model_validate({"precision": "float16"})
    weights = WeightOptimizer([parameter], config, 10, "cpu")
    loss = (parameter * other).sum() * 3
    found = weights.unscaled(torch.autograd.grad(weights.scaled(loss), [other], allow_unused=True))
    assert weights.scaler.get_scale() > 1
    assert found[0] is not None
    assert found[0].tolist() == [3.0, 3.0]
    burst = weights.unscaled([torch.tensor([torch.inf, 1.0]), None, torch.ones(1)])
    assert [None if each is None else each.tolist() for each in burst] == [[0.0, 0.0], None, [0.0]]


def test_penalties_count_whole_networks_where_values_are_chosen(tmp_path: Path) -> None:
    config = {**stage_options("enas"), "penalties": [{"metric": "params", "weight": 2.0, "reference": 100}]}
    trainer: Any = trainer_of(find("archsearch.supernets", "enas"), config, tmp_path, build=Values)
    for width in (2, 4):
        architecture = {"width": width, "act": "relu"}
        own = sum(p.numel() for p in fix(Values(), architecture).parameters())
        assert trainer.penalties.of(architecture) == pytest.approx(2.0 * own / 100)
    config["penalties"] = [{"metric": "latencyMs", "weight": 1.0}]
    with pytest.raises(UserError, match="this space chooses values too"):
        trainer_of(find("archsearch.supernets", "enas"), config, tmp_path, build=Values)


@pytest.mark.parametrize("name", PENALISED)
def test_a_penalty_is_taken_and_told_in_bfloat16(name: str, tmp_path: Path) -> None:
    config = stage_options(name, penalties=[{"metric": "macs", "weight": 0.1}], precision="bfloat16")
    trainer = trainer_of(find("archsearch.supernets", name), config, tmp_path)
    reported: list[dict[str, float]] = []
    trainer.bench.context.report = lambda step, metrics, **_: reported.append(metrics)  # type: ignore[method-assign]
    loop_of(trainer).run()
    assert trainer.finish()
    if name not in ("enas", "textnas"):
        assert reported[-1]["expectedMacs"] > 0


# --- constraints


def constraints() -> list[Constraint]:
    """At most one skip connection in NAS-Bench-201's cell, and its last edge cut."""
    names = [choice.name for choice in describe(tiny()).choices]
    few = Constraint.count("one skip", [Term(name, ("skip_connect",)) for name in names], most=1)
    return [few, Constraint.count("cut", [Term(names[-1], ("none",))], least=1)]


@pytest.mark.parametrize("name", sorted(set(MIXING) - {"pc-darts"}))
def test_what_is_found_keeps_the_constraints_of_the_space(name: str, tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = tiny()
        setattr(model, "space_constraints", constraints())  # noqa: B010 - no attribute of a module's
        return model

    trainer: Any = trainer_of(find("archsearch.supernets", name), stage_options(name), tmp_path, build=build)
    with torch.no_grad():
        for logits in trainer.alphas.parameters():
            logits.copy_(torch.tensor([0.0, 4.0, 1.0, 0.5, 2.0]))  # skip connections everywhere
    loop_of(trainer).run()
    (found,) = trainer.finish()
    values = list(found.architecture.values())
    assert values[-1] == "none"
    assert values.count("skip_connect") == 1, "the others take the next in line, and no more than must"


# --- the examples


@pytest.mark.parametrize("path", EXAMPLES, ids=[str(path.relative_to(path.parents[1])) for path in EXAMPLES])
def test_an_example_names_a_space_that_its_strategy_takes(path: Path) -> None:
    wanted = load_experiment(path)
    assert check_experiment(wanted) == []
    zoo = wanted.spec.model_space.zoo
    assert zoo is not None
    strategy = find("archsearch.strategies", wanted.spec.strategy.name)
    config = strategy.Config.model_validate(wanted.spec.strategy.config)
    assert strategy(config).check(space_of(zoo.name, {**zoo.args, **small(zoo)})) == []


def small(zoo: Any) -> dict[str, Any]:
    """Arguments that make the network narrow and shallow and leave its choices."""
    given = {"channels": 2, "cells": 3} if zoo.name == "darts" else {"hidden": 8} if zoo.name == "textnas" else {}
    return {name: value for name, value in given.items() if name in zoo.args}


def space_of(name: str, args: dict[str, Any]) -> SearchSpace:
    with torch.device("meta"):
        return describe(find("archsearch.spaces", name)(**args))
