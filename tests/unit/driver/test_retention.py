"""Weights of trials that are no longer among the best go; what a record names is there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from archsearch.protocol import Assignment, Outcome, TrialKind, TrialState
from archsearch.store import open_store
from archsearch.store.checkpoint import MANIFEST
from archsearch_strategies.algorithms.random import RandomSearch
from archsearch_strategies.driver import Driver
from archsearch_strategies.driver.retention import Retention
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.ledger import read_ledger
from tests.support import fake_worker as fake


def saving(folder: Path) -> fake.Evaluate:
    """As a worker does: the weights of each trial are in the store before its result is handed in."""

    async def evaluate(assignment: Assignment) -> Outcome:
        outcome = await fake.evaluate(assignment)
        if "checkpoint" in outcome.artifacts:
            weights = folder / outcome.artifacts["checkpoint"]
            weights.mkdir(parents=True)
            for name in ("tensors.safetensors", MANIFEST):
                (weights / name).touch()
        return outcome

    return evaluate


def stored(folder: Path) -> set[str]:
    return {str(path.parent.relative_to(folder)) for path in folder.glob(f"trials/*/weights/{MANIFEST}")}


def named(folder: Path, wanted: Any) -> set[str]:
    table = TrialTable(wanted.spec.objectives)
    table.replay(read_ledger(open_store(str(folder))))
    return {row.artifacts["checkpoint"] for row in table.rows.values() if "checkpoint" in row.artifacts}


@pytest.mark.parametrize("keep", [1, 3])
async def test_only_the_best_keep_their_weights(tmp_path: Path, keep: int) -> None:
    wanted = fake.experiment(parallelTrials=3, retention={"checkpoints": keep}, budget={"maxTrials": 20})
    summary = await fake.run(tmp_path, wanted, fake.FakeLauncher(saving(tmp_path)))
    assert stored(tmp_path) == named(tmp_path, wanted)
    assert stored(tmp_path) == {f"trials/{trial.number}/weights" for trial in summary.best[:keep]}
    assert [trial.artifacts for trial in summary.best[keep:]] == [{}] * (20 - keep)


async def test_of_several_objectives_the_front_keeps_its_weights(tmp_path: Path) -> None:
    save = saving(tmp_path)

    async def evaluate(assignment: Assignment) -> Outcome:
        outcome = await save(assignment)
        width = float((assignment.architecture or {}).get("width", 0))
        return outcome.model_copy(update={"metrics": {**outcome.metrics, "loss": width}})

    objectives = [{"metric": "accuracy"}, {"metric": "loss", "goal": "Minimize"}]
    wanted = fake.experiment(objectives=objectives, retention={"checkpoints": 1}, budget={"maxTrials": 20})
    summary = await fake.run(tmp_path, wanted, fake.FakeLauncher(evaluate))
    assert len(summary.pareto) > 1
    assert stored(tmp_path) == {f"trials/{trial.number}/weights" for trial in summary.pareto}


async def test_a_strategy_that_needs_them_keeps_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RandomSearch, "reuses_weights", True)
    launcher = fake.FakeLauncher(saving(tmp_path))
    await fake.run(tmp_path, fake.experiment(), launcher)
    assert len(stored(tmp_path)) == 12
    assert {each.keep_weights for each in launcher.granted if each.kind is TrialKind.EVALUATE} == {"Always"}


async def test_what_a_killed_driver_had_not_deleted_the_next_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = fake.experiment(retention={"checkpoints": 1})
    with monkeypatch.context() as patched:
        patched.setattr(Retention, "_work", lambda self: None)
        await fake.run(tmp_path, wanted, fake.FakeLauncher(saving(tmp_path)))
        assert len(stored(tmp_path)) == 12
    await fake.run(tmp_path, wanted)
    assert len(stored(tmp_path)) == 1


async def test_weights_that_a_waiting_trial_begins_with_stay(tmp_path: Path) -> None:
    """And a result that names something else than its trial's own folder deletes nothing."""
    driver = Driver(fake.experiment(retention={"checkpoints": 1}), open_store(str(tmp_path)), fake.FakeLauncher())
    table = driver.table
    hostile = asyncio.Event()

    async def evaluate(assignment: Assignment) -> Outcome:
        outcome = await saving(tmp_path)(assignment)
        if assignment.number == 1:
            table.needed["trials/1/weights"] += 1
        if assignment.number == 2:
            hostile.set()
            return outcome.model_copy(update={"artifacts": {"checkpoint": "ledger"}})
        return outcome

    assert isinstance(driver.launcher, fake.FakeLauncher)
    driver.launcher.evaluate = evaluate
    summary = await driver.run()
    assert summary.state == "Succeeded"
    assert hostile.is_set()
    assert "trials/1/weights" in stored(tmp_path)
    assert summary.best[0].metrics["accuracy"] > table.rows[1].metrics["accuracy"]
    assert "ledger" not in table.weights
    assert next(read_ledger(open_store(str(tmp_path))))["type"] == "experiment"
    assert table.rows[2].state is TrialState.SUCCEEDED
