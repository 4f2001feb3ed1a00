"""Random architectures of the winner's size, trained beside it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from archsearch.protocol import Assignment, FailureClass, KeepWeights, Outcome, TrialKind, TrialState
from archsearch.store import open_store
from archsearch_strategies.algorithms.random import RandomSearch
from archsearch_strategies.driver import Driver
from archsearch_strategies.ledger import read_ledger
from tests.support import fake_worker as fake


def experiment(controls: int | None = 2, trials: int = 6, **spec: Any) -> Any:
    retrain = {"topK": 1, "config": {"epochs": 20}} | ({} if controls is None else {"controls": controls})
    return fake.experiment(**{"retrain": retrain, "budget": {"maxTrials": trials}, **spec})


def size(architecture: dict[str, Any]) -> float:
    operations = [value for name, value in architecture.items() if name != "width"]
    return 100.0 * sum(value == "conv" for value in operations) + architecture["width"]


async def evaluate(assignment: Assignment) -> Outcome:
    """Random networks are trained better than the winner: they are neither best nor exported for that."""
    outcome = await fake.evaluate(assignment)
    if assignment.kind is TrialKind.PROFILE:
        return Outcome(state=TrialState.SUCCEEDED, metrics={"params": size(assignment.architecture or {})})
    if assignment.kind is TrialKind.RETRAIN and assignment.keep_weights is KeepWeights.NEVER:
        return outcome.model_copy(update={"metrics": {"accuracy": 99.0}, "artifacts": {}})
    return outcome


def of_kind(launcher: fake.FakeLauncher, kind: TrialKind) -> list[Assignment]:
    return [each for each in launcher.granted if each.kind is kind]


async def test_controls_of_equal_size_are_trained_alike_and_never_win(tmp_path: Path) -> None:
    launcher = fake.FakeLauncher(evaluate)
    summary = await fake.run(tmp_path, experiment(), launcher)
    assert summary.state == "Succeeded"
    winner, *controls = of_kind(launcher, TrialKind.RETRAIN)
    assert len(controls) == 2
    assert {each.params["config"]["epochs"] for each in (winner, *controls)} == {20}
    assert {each.keep_weights for each in controls} == {KeepWeights.NEVER}
    wanted = size(winner.architecture or {})
    assert all(abs(size(each.architecture or {}) - wanted) <= 0.1 * wanted for each in controls)
    assert len({str(each.architecture) for each in (winner, *controls)}) == 3
    assert [each.number for each in summary.retrained] == [7]
    assert [(each.number, each.metrics) for each in summary.controls] == [
        (8, {"accuracy": 99.0}),
        (9, {"accuracy": 99.0}),
    ]
    assert summary.model_trial == 7
    assert summary.best[0].metrics["accuracy"] < 99
    profiled = of_kind(launcher, TrialKind.PROFILE)
    assert 3 <= len(profiled) <= 51
    assert all(each.number is None and each.params == {"metrics": ["params"]} for each in profiled)
    again = fake.FakeLauncher(evaluate)
    assert (await fake.run(tmp_path, experiment(), again)).controls == summary.controls
    assert again.granted == []


async def test_a_restart_and_a_reopened_search_train_no_control_twice(tmp_path: Path) -> None:
    launcher = fake.FakeLauncher()
    driver = Driver(experiment(), open_store(str(tmp_path)), launcher)

    async def stop_in_the_second(assignment: Assignment) -> Outcome:
        if assignment.number == 9:
            driver.request_stop()
            await asyncio.Event().wait()
        return await evaluate(assignment)

    launcher.evaluate = stop_in_the_second
    assert (await driver.run()).state == "Stopped"
    first = [each.number for each in of_kind(launcher, TrialKind.RETRAIN)]
    second = fake.FakeLauncher(evaluate)
    summary = await fake.run(tmp_path, experiment(), second)
    assert [each.number for each in of_kind(second, TrialKind.RETRAIN)] == [9]
    assert of_kind(second, TrialKind.PROFILE) == []
    assert (first, [each.number for each in summary.controls]) == ([7, 8, 9], [8, 9])

    async def poor(assignment: Assignment) -> Outcome:
        outcome = await evaluate(assignment)
        late = assignment.kind is TrialKind.EVALUATE
        return outcome.model_copy(update={"metrics": {"accuracy": -1.0}}) if late else outcome

    third = fake.FakeLauncher(poor)
    more = await fake.run(tmp_path, experiment(trials=8), third)
    assert of_kind(third, TrialKind.RETRAIN) == []  # the winner is the same, and so are its controls
    assert [each.number for each in more.controls] == [8, 9]


@pytest.mark.parametrize(
    ("controls", "default", "top_k", "expected"),
    [(None, 0, 1, 0), (None, 1, 1, 1), (0, 1, 1, 0), (3, 0, 1, 3), (3, 1, 0, 0)],
)
async def test_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controls: int | None, default: int, top_k: int, expected: int
) -> None:
    monkeypatch.setattr(RandomSearch, "controls", default)
    retrain = {"topK": top_k} | ({} if controls is None else {"controls": controls})
    summary = await fake.run(tmp_path, experiment(retrain=retrain), fake.FakeLauncher(evaluate))
    assert (len(summary.retrained), len(summary.controls)) == (top_k, expected)


async def test_where_none_is_near_the_nearest_is_taken(tmp_path: Path) -> None:
    best: list[Any] = []

    async def odd(assignment: Assignment) -> Outcome:
        if assignment.kind is not TrialKind.PROFILE:
            return await evaluate(assignment)
        best[:] = best or [assignment.architecture]  # the first that is asked for is the winner's own
        params = 1e6 if assignment.architecture == best[0] else size(assignment.architecture or {})
        if params < 200:
            return Outcome(state=TrialState.FAILED, failure=FailureClass.USER_ERROR, message="it cannot be built")
        return Outcome(state=TrialState.SUCCEEDED, metrics={"params": params})

    launcher = fake.FakeLauncher(odd)
    summary = await fake.run(tmp_path, experiment(1), launcher)
    profiled = of_kind(launcher, TrialKind.PROFILE)
    assert len(profiled) == 51
    (control,) = summary.controls
    sizes = [size(each.architecture or {}) for each in profiled if each.architecture != best[0]]
    assert size(control.architecture or {}) == max(sizes)


async def test_a_network_that_cannot_be_counted_has_no_control(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = await fake.run(tmp_path, experiment(), fake.FakeLauncher())
    assert (summary.state, summary.controls) == ("Succeeded", [])
    assert "cannot be counted" in caplog.text
    assert not [each for each in read_ledger(open_store(str(tmp_path))) if each.get("control")]
