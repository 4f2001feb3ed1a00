"""What comes after the search: the best trained again, the best of these exported; and what constraints leave out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from archsearch.protocol import Assignment, FailureClass, KeepWeights, Outcome, TrialKind, TrialState
from archsearch.spec.status import SearchStatus
from archsearch.store import open_store
from archsearch_strategies.algorithms.random import RandomSearch
from archsearch_strategies.driver import Driver
from archsearch_strategies.ledger import read_ledger
from tests.support import fake_worker as fake

RETRAIN = {"topK": 3, "config": {"epochs": 20}}


def experiment(trials: int = 6, **spec: Any) -> Any:
    spec = {"retrain": RETRAIN, "budget": {"maxTrials": trials}, **spec}
    return fake.experiment("regularized-evolution", {"population": 4, "sample": 2}, **spec)


async def retraining(assignment: Assignment) -> Outcome:
    """Retrained, the third best turns out to be the best."""
    outcome = await fake.evaluate(assignment)
    if assignment.kind is not TrialKind.RETRAIN:
        return outcome
    return outcome.model_copy(update={"metrics": {"accuracy": 2 - fake.fitness(assignment)}})


def of_kind(launcher: fake.FakeLauncher, kind: TrialKind) -> list[Assignment]:
    return [each for each in launcher.granted if each.kind is kind]


async def test_the_best_are_trained_again_and_the_best_of_these_is_exported(tmp_path: Path) -> None:
    launcher, seen = fake.FakeLauncher(retraining), list[SearchStatus]()
    summary = await fake.run(tmp_path, experiment(), launcher, listener=seen.append)
    assert (summary.state, summary.trials["succeeded"] + summary.trials["cached"]) == ("Succeeded", 9)
    again = of_kind(launcher, TrialKind.RETRAIN)
    assert [each.number for each in again] == [7, 8, 9]
    assert all(each.params == {"config": {"epochs": 20}} for each in again)
    assert all(each.keep_weights is KeepWeights.ALWAYS for each in again)
    distinct = list({trial.hash: trial for trial in reversed(summary.best)}.values())[::-1]
    assert [each.architecture for each in again] == [trial.architecture for trial in distinct[:3]]
    assert [trial.number for trial in summary.retrained] == [7, 8, 9]
    assert all(trial.kind == "evaluate" for trial in summary.best)
    assert summary.model_trial == 9
    (export,) = of_kind(launcher, TrialKind.EXPORT)
    assert export.params == {"target": "best", "checkpoint": "trials/9/weights", "config": {"epochs": 20}}
    assert seen[-1].progress == "6/6"


async def test_status_shows_the_stage(tmp_path: Path) -> None:
    driver = Driver(experiment(), open_store(str(tmp_path)), launcher := fake.FakeLauncher())
    stages: list[str] = []

    async def evaluate(assignment: Assignment) -> Outcome:
        stages.append(driver.status().stage)
        return await retraining(assignment)

    launcher.evaluate = evaluate
    await driver.run()
    assert [stage == "retrain" for stage in stages[-5:]] == [False, True, True, True, False]
    assert stages.count("retrain") == 3


@pytest.mark.parametrize("broken", [(7, 8, 9), (9,)])
async def test_a_failed_retraining_falls_back(tmp_path: Path, broken: tuple[int, ...]) -> None:
    async def evaluate(assignment: Assignment) -> Outcome:
        if assignment.number in broken:
            return Outcome(state=TrialState.FAILED, failure=FailureClass.USER_ERROR, message="it broke")
        return await retraining(assignment)

    launcher = fake.FakeLauncher(evaluate)
    summary = await fake.run(tmp_path, experiment(budget={"maxTrials": 6, "maxFailedTrials": 0}), launcher)
    assert summary.state == "Succeeded"
    wanted = summary.best[0].number if broken == (7, 8, 9) else 8
    assert summary.model_trial == wanted
    assert of_kind(launcher, TrialKind.EXPORT)[0].params["checkpoint"] == f"trials/{wanted}/weights"
    again = await fake.run(tmp_path, experiment(budget={"maxTrials": 6, "maxFailedTrials": 0}), fake.FakeLauncher())
    assert (again.state, again.history_hash) == ("Succeeded", summary.history_hash)


@pytest.mark.parametrize(("retrain", "default", "count"), [({"topK": 0}, 2, 0), (None, 2, 2), (None, 0, 0)])
async def test_how_many_is_the_manifests_or_the_strategys_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retrain: Any, default: int, count: int
) -> None:
    monkeypatch.setattr(RandomSearch, "retrains", default)
    spec = {} if retrain is None else {"retrain": retrain}
    launcher = fake.FakeLauncher()
    summary = await fake.run(tmp_path, fake.experiment(**spec), launcher)
    assert len(of_kind(launcher, TrialKind.RETRAIN)) == count
    assert len(of_kind(launcher, TrialKind.EXPORT)) == 1
    assert summary.model_trial == (12 + 1 if count else summary.best[0].number)


@pytest.mark.parametrize("number", [7, 8])
async def test_stopped_while_retraining_and_resumed(tmp_path: Path, number: int) -> None:
    driver = Driver(experiment(), open_store(str(tmp_path / "a")), launcher := fake.FakeLauncher())

    async def evaluate(assignment: Assignment) -> Outcome:
        if assignment.number == number:
            driver.request_stop()
            await asyncio.Event().wait()
        return await retraining(assignment)

    launcher.evaluate = evaluate
    assert (await driver.run()).state == "Stopped"
    resumed = fake.FakeLauncher(retraining)
    again = await fake.run(tmp_path / "a", experiment(), resumed)
    assert [each.number for each in of_kind(resumed, TrialKind.RETRAIN)] == list(range(number, 10))
    whole = await fake.run(tmp_path / "b", experiment(), fake.FakeLauncher(retraining))
    assert (again.history_hash, again.model_trial) == (whole.history_hash, whole.model_trial)


@pytest.mark.parametrize("finished", [True, False])
async def test_a_raised_budget_goes_on_after_retraining_with_numbers_of_its_own(tmp_path: Path, finished: bool) -> None:
    driver = Driver(experiment(6), open_store(str(tmp_path)), launcher := fake.FakeLauncher())

    async def evaluate(assignment: Assignment) -> Outcome:
        if assignment.number == 8 and not finished:
            driver.request_stop()
            await asyncio.Event().wait()
        return await retraining(assignment)

    launcher.evaluate = evaluate
    await driver.run()
    later = fake.FakeLauncher(retraining)
    summary = await fake.run(tmp_path, experiment(10), later)
    assert summary.state == "Succeeded"
    numbers = [each.number for each in of_kind(later, TrialKind.EVALUATE)]
    assert set(numbers) <= {10, 11, 12, 13}
    submitted = [each["number"] for each in read_ledger(open_store(str(tmp_path))) if each["type"] == "submitted"]
    assert submitted == [1, 2, 3, 4, 5, 6, 10, 11, 12, 13]
    assert all(each.number and each.number > 13 for each in of_kind(later, TrialKind.RETRAIN))
    # What the ledger holds now can be replayed too, by a driver that has to go on and by one that has not.
    third = await fake.run(tmp_path, experiment(12), fake.FakeLauncher(retraining))
    assert third.state == "Succeeded", third.message
    assert (await fake.run(tmp_path, experiment(12))).history_hash == third.history_hash


async def bounded(assignment: Assignment) -> Outcome:
    """As a worker does: what is too large is not trained. Memory shows only in training."""
    outcome = await fake.evaluate(assignment)
    if assignment.kind is not TrialKind.EVALUATE:
        return outcome
    width = float((assignment.architecture or {})["width"])
    bound = next(each for each in assignment.constraints if each.metric == "params")
    if bound.max is not None and width > float(bound.max):
        return Outcome(state=TrialState.INFEASIBLE, message=f"params is {width:g}: not trained")
    return outcome.model_copy(update={"metrics": {**outcome.metrics, "params": width, "loss": width}})


async def test_constraints_leave_architectures_out(tmp_path: Path) -> None:
    constraints = [{"metric": "params", "max": "3"}, {"metric": "loss", "min": "1.5"}]
    wanted = experiment(24, constraints=constraints, retrain={"topK": 1}, seed=1)
    launcher = fake.FakeLauncher(bounded)
    summary = await fake.run(tmp_path, wanted, launcher)
    assert summary.state == "Succeeded"
    assert {trial.architecture["width"] for trial in summary.best if trial.architecture} == {2}
    results = [each for each in read_ledger(open_store(str(tmp_path))) if each["type"] == "result"]
    messages = {each["message"] for each in results if each["state"] == "infeasible"}
    assert messages == {"params is 4: not trained", "loss is 1, outside min 1.5"}
    assert summary.trials["infeasible"] == sum(each["state"] == "infeasible" for each in results)
    assert summary.trials["failed"] == 0
    (again,) = of_kind(launcher, TrialKind.RETRAIN)
    assert again.constraints == []


async def test_a_constraint_of_which_nothing_is_told_is_a_bad_metric(tmp_path: Path) -> None:
    wanted = fake.experiment(
        constraints=[{"metric": "loss", "max": "3"}], budget={"maxTrials": 12, "maxFailedTrials": 0}
    )
    summary = await fake.run(tmp_path, wanted)
    assert summary.state == "Failed"
    assert "did not report the constraint loss" in summary.message
