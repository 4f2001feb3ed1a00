"""Trials that train shared weights, and trials that begin with them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from archsearch import registry
from archsearch.protocol import Assignment, FailureClass, KeepWeights, Outcome, TrialKind, TrialState
from archsearch.spec import reasons
from archsearch.spec.experiment import Objective
from archsearch.spec.status import SearchStatus
from archsearch.store import open_store
from archsearch.store.checkpoint import MANIFEST
from archsearch_strategies.driver import Driver
from archsearch_strategies.ledger import read_ledger
from archsearch_strategies.simulate.cluster import Answer
from archsearch_strategies.simulate.simulation import Simulation
from archsearch_strategies.strategy import AskTell, Run, Strategy, StrategyConfig, StrategyError
from tests.support import fake_worker as fake


class OneShot(Strategy[StrategyConfig]):
    """Supernets one after another, each from the weights of the one before; architectures with the weights of each."""

    kinds = (TrialKind.SUPERNET, TrialKind.INHERIT)
    supernets, inherits = 1, 3

    async def search(self, run: Run) -> None:
        source: dict[str, Any] = {}
        for _ in range(self.supernets):
            run.stage("supernet")
            net = await run.trial(TrialKind.SUPERNET, params={"trainer": "t", **source})
            source = {"checkpointOf": net.number}
            run.stage("inherit")
            for _ in range(self.inherits):
                await run.trial(TrialKind.INHERIT, run.space.sample(run.rng), params=source)


def use(monkeypatch: pytest.MonkeyPatch, strategy: type[Strategy[Any]], **attributes: Any) -> type[Any]:
    real, chosen = registry.find, type("Chosen", (strategy,), attributes)
    wrapped = lambda group, name: chosen if group == "archsearch.strategies" else real(group, name)  # noqa: E731
    monkeypatch.setattr(registry, "find", wrapped)
    return chosen


def worker(folder: Path) -> fake.Evaluate:
    """As a worker does: a supernet has weights and no metric, an inherit trial metrics and no weights."""

    async def evaluate(assignment: Assignment) -> Outcome:
        outcome = await fake.evaluate(assignment)
        if assignment.kind is TrialKind.INHERIT:
            return outcome.model_copy(update={"artifacts": {}})
        if "checkpoint" in outcome.artifacts:
            weights = folder / outcome.artifacts["checkpoint"]
            weights.mkdir(parents=True)
            (weights / MANIFEST).touch()
        return outcome.model_copy(update={"metrics": {}}) if assignment.kind is TrialKind.SUPERNET else outcome

    return evaluate


def stored(folder: Path) -> set[str]:
    return {str(path.parent.relative_to(folder)) for path in folder.glob(f"trials/*/weights/{MANIFEST}")}


def of_kind(launcher: fake.FakeLauncher, kind: TrialKind) -> list[Assignment]:
    return [each for each in launcher.granted if each.kind is kind]


def experiment(**spec: Any) -> Any:
    return fake.experiment(**{"retention": {"checkpoints": 1}, "retrain": {"topK": 0}, **spec})


async def test_inherit_trials_begin_with_the_supernets_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, OneShot)
    launcher, seen = fake.FakeLauncher(worker(tmp_path)), list[SearchStatus]()
    summary = await fake.run(tmp_path, experiment(), launcher, listener=seen.append)
    assert (summary.state, summary.reason) == ("Succeeded", reasons.SEARCH_FINISHED)
    (supernet,), inherits = of_kind(launcher, TrialKind.SUPERNET), of_kind(launcher, TrialKind.INHERIT)
    assert supernet.keep_weights is KeepWeights.ALWAYS
    assert supernet.params == {"trainer": "t"}
    assert [each.params for each in inherits] == [{"checkpointOf": 1, "checkpoint": "trials/1/weights"}] * 3
    assert {each.keep_weights for each in inherits} == {KeepWeights.NEVER}
    assert {each.kind for each in summary.best} == {"inherit"}
    (export,) = of_kind(launcher, TrialKind.EXPORT)
    assert export.params == {"target": "best", "checkpoint": "trials/1/weights", "inherited": True}
    assert stored(tmp_path) == {"trials/1/weights"}
    assert (seen[-1].progress, seen[-1].stage) == ("4/12", "inherit")


async def test_an_alarm_shows_in_status_summary_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, OneShot)
    point = {"step": 30, "metrics": {"loss": 0.5}, "weights": {"op0": [0.1, 0.9]}, "alarm": "the cell collapses"}

    class Alarming(fake.FakeLauncher):
        async def _trial(self, client: fake.Client, grant: Any) -> Any:
            if grant["assignment"]["kind"] == "supernet":
                assert (await client.report(grant, points=[point]))[0] == 200
            return await super()._trial(client, grant)

    driver = Driver(experiment(), open_store(str(tmp_path)), Alarming(worker(tmp_path)))
    summary = await driver.run()
    expected = [{"number": 1, "step": 30, "message": "the cell collapses"}]
    assert [each.to_json() for each in summary.alarms] == expected
    assert driver.status().to_json()["alarms"] == expected
    samples = {sample.name: sample.value for family in driver.metrics.registry.collect() for sample in family.samples}
    assert samples["archsearch_collapse_alarms_total"] == 1
    reported = [each for each in read_ledger(open_store(str(tmp_path))) if each["type"] == "reported"]
    assert reported[0]["points"] == [point]


@pytest.mark.parametrize("inherits", [1, 0])
async def test_supernets_keep_their_weights_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inherits: int
) -> None:
    """Afterwards the newest has them, and that with which the best was evaluated."""
    use(monkeypatch, OneShot, supernets=3, inherits=inherits)
    kept: list[set[str]] = []

    async def evaluate(assignment: Assignment) -> Outcome:
        kept.append(stored(tmp_path))
        outcome = await worker(tmp_path)(assignment)
        first = assignment.params.get("checkpointOf") == 1 and assignment.kind is TrialKind.INHERIT
        return outcome.model_copy(update={"metrics": {"accuracy": 9.0}}) if first else outcome

    launcher = fake.FakeLauncher(evaluate)
    summary = await fake.run(tmp_path, experiment(), launcher)
    assert len(max(kept, key=len)) >= 2
    numbers = [each.number for each in of_kind(launcher, TrialKind.SUPERNET)]
    assert numbers == ([1, 3, 5] if inherits else [1, 2, 3])
    assert of_kind(launcher, TrialKind.SUPERNET)[2].params["checkpoint"] == f"trials/{numbers[1]}/weights"
    if inherits:
        assert summary.best[0].number == 2
        assert stored(tmp_path) == {"trials/1/weights", "trials/5/weights"}
    else:
        assert (summary.state, summary.best) == ("Failed", [])
        assert stored(tmp_path) == {"trials/3/weights"}


async def test_numbers_are_the_tables_after_the_driver_added_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a restarted driver, whose strategy counts its own trials, finds the same records."""
    use(monkeypatch, OneShot, supernets=2, inherits=2)
    wanted = experiment(retrain={"topK": 1}, budget={"maxTrials": 3})
    first = await fake.run(tmp_path, wanted, fake.FakeLauncher(worker(tmp_path)))
    assert (first.reason, [each.number for each in first.retrained]) == (reasons.MAX_TRIALS_REACHED, [4])
    wanted = experiment(retrain={"topK": 1}, budget={"maxTrials": 6})
    launcher = fake.FakeLauncher()
    driver = Driver(wanted, open_store(str(tmp_path)), launcher)

    async def stop_in_the_last(assignment: Assignment) -> Outcome:
        if assignment.number == 7:
            driver.request_stop()
            await asyncio.Event().wait()
        return await worker(tmp_path)(assignment)

    launcher.evaluate = stop_in_the_last
    assert (await driver.run()).state == "Stopped"
    last = fake.FakeLauncher(worker(tmp_path))
    assert (await fake.run(tmp_path, wanted, last)).state == "Succeeded"
    inputs = {each.number: each.params.get("checkpointOf") for each in [*launcher.granted, *last.granted]}
    assert {number: inputs[number] for number in (5, 6, 7)} == {5: 1, 6: 5, 7: 5}
    assert last.granted[0].params["checkpoint"] == "trials/5/weights"


class Careless(Strategy[StrategyConfig]):
    """Wants the weights of its first trial, which retention has deleted by then."""

    async def search(self, run: Run) -> None:
        trials = [await run.trial(TrialKind.EVALUATE, run.space.sample(run.rng)) for _ in range(6)]
        worst = min(trials, key=lambda trial: trial.score)
        again = await run.trial(TrialKind.EVALUATE, run.space.sample(run.rng), params={"checkpointOf": worst.number})
        assert again.state is TrialState.FAILED


async def test_weights_that_are_gone_fail_the_trial_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Careless)
    launcher = fake.FakeLauncher(worker(tmp_path))
    summary = await fake.run(tmp_path, experiment(), launcher)
    assert (summary.state, summary.trials["failed"]) == ("Succeeded", 1)
    assert 7 not in [each.number for each in launcher.granted]
    (failed,) = [each for each in read_ledger(open_store(str(tmp_path))) if each.get("state") == "failed"]
    assert failed["number"] == 7
    assert "begin with the weights of trial" in failed["message"]
    assert "deleted" in failed["message"]
    again = await fake.run(tmp_path, experiment())  # a replay sees the same, though the ledger says discarded now
    assert again.history_hash == summary.history_hash


@pytest.mark.parametrize(
    ("number", "outcome", "words"),
    [
        (2, None, "1 to 1"),
        ("1", None, "1 to 1"),
        (1, None, "not finished"),
        (1, Outcome(state=TrialState.SUCCEEDED), "has no weights"),
        (1, Outcome(state=TrialState.FAILED, failure=FailureClass.USER_ERROR, message="no"), "has no weights"),
    ],
)
async def test_a_strategy_cannot_name_a_trial_without_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: Any, outcome: Outcome | None, words: str
) -> None:
    async def search(self: OneShot, run: Run) -> None:
        run.submit(TrialKind.SUPERNET)
        if outcome is not None:
            await run.completed()
        run.submit(TrialKind.INHERIT, run.space.sample(run.rng), params={"checkpointOf": number})

    use(monkeypatch, OneShot, search=search)

    async def evaluate(assignment: Assignment) -> Outcome:
        found = outcome if assignment.kind is TrialKind.SUPERNET else None
        return found or await fake.evaluate(assignment)

    summary = await fake.run(tmp_path, experiment(), fake.FakeLauncher(evaluate))
    assert (summary.state, summary.reason) == ("Failed", reasons.STRATEGY_ERROR)
    assert f"checkpointOf is {number!r}" in summary.message
    assert words in summary.message


def test_simulations_and_notebooks_have_weights_as_well() -> None:
    simulation = Simulation(
        OneShot(StrategyConfig()),
        fake.SPACE,
        [Objective(metric="accuracy")],
        lambda row: Answer({"accuracy": 0.5} if row.kind is TrialKind.INHERIT else {}, seconds=1.0),
        record=True,
    )
    simulation.step()
    simulation.step()
    simulation.restart()
    table = simulation.run().table
    assert [row.state for row in table.rows.values()] == [TrialState.SUCCEEDED] * 4
    assert [row.input for row in table.rows.values()] == ["", *["trials/1/weights"] * 3]

    loop = AskTell(OneShot(StrategyConfig()), fake.SPACE, [Objective(metric="accuracy")])
    supernet = loop.ask()
    assert supernet is not None
    with pytest.raises(StrategyError, match="no weights"):
        loop.tell(supernet)
    loop = AskTell(OneShot(StrategyConfig()), fake.SPACE, [Objective(metric="accuracy")])
    supernet = loop.ask()
    assert supernet is not None
    loop.tell(supernet, {})
    inherit = loop.ask()
    assert inherit is not None
    assert inherit.params == {"checkpointOf": 1}
