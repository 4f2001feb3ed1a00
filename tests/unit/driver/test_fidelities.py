"""Fidelities and stopping rules in the driver: who is the best, what is kept, who is stopped, and all of it again."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from archsearch.protocol import Assignment, FailureClass, Outcome, TrialKind, TrialState
from archsearch.spec import reasons
from archsearch.spec.experiment import Objective
from archsearch.store import open_store
from archsearch_strategies.driver import Driver
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.finish import contenders, export_row
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.launch.base import WorkerLost
from archsearch_strategies.ledger import read_ledger
from tests.support import fake_worker as fake

ASHA = {"strategy": {"name": "asha", "config": {"reduction": 2}}}
EIGHT = {"evaluator": {"name": "classification", "config": {"dataset": "digits", "epochs": 8}}}
Trial = tuple[int, str, dict[str, Any], float]  # number, hash, params, value


def table(*trials: Trial, target: str | None = None, highest: float | None = None, metrics: int = 1) -> TrialTable:
    """A table of finished trials, told in the order given."""
    names = ["accuracy", "speed"][:metrics]
    made = TrialTable([Objective(metric=name, target=target if name == "accuracy" else None) for name in names])
    made.apply(r.Accepted(space="s", highest_fidelity=highest))
    for number, digest, params, value in trials:
        made.apply(r.Submitted(number=number, kind=TrialKind.EVALUATE, hash=digest, params=params))
        values = {"accuracy": value, "speed": -value}
        made.apply(r.Result(number=number, state=TrialState.SUCCEEDED, metrics=values, time=0.0))
    return made


def at(fidelity: int) -> dict[str, Any]:
    return {"fidelity": fidelity}


def test_more_training_stands_before_a_better_value() -> None:
    found = table((1, "a", at(4), 0.9), (2, "b", at(12), 0.5), (3, "c", at(4), 0.8), (4, "d", at(12), 0.6))
    assert [row.number for row in found.best] == [4, 2, 1, 3]
    assert [row.number for row in contenders(found, 3)] == [4, 2, 1]
    assert [row.number for row in found.pareto] == [4]
    full = table((1, "a", at(12), 0.9), (2, "b", {}, 0.1))
    assert full.best[0].number == 2  # no fidelity is a training in full


def test_a_promoted_architecture_is_shown_once() -> None:
    found = table((1, "a", at(4), 0.9), (2, "a", at(12), 0.5), (3, "b", at(4), 0.8))
    assert [row.number for row in found.best] == [2, 3]
    late = table((1, "a", at(12), 0.5), (2, "a", at(4), 0.9))
    assert [row.number for row in late.best] == [1]


def test_several_objectives_are_weighed_at_the_highest_fidelity_alone() -> None:
    found = table((1, "a", at(4), 0.9), (2, "b", at(12), 0.5), (3, "c", at(12), 0.6), (4, "d", at(4), 0.1), metrics=2)
    assert [row.number for row in found.pareto] == [2, 3]


def test_a_target_counts_at_the_highest_fidelity() -> None:
    low = (1, "a", at(4), 0.9)
    assert table(low, target="0.8", highest=12.0).goal is None
    met = table(low, (2, "b", at(12), 0.85), target="0.8", highest=12.0).goal
    assert met is not None and met.number == 2
    untold = table((1, "a", at(12), 0.5), (2, "b", at(4), 0.9), (3, "c", at(12), 0.9), target="0.8").goal
    assert untold is not None and untold.number == 3


def test_an_export_without_weights_trains_as_far_as_the_trial() -> None:
    found = table((1, "a", at(4), 0.9))
    assert export_row(found.rows[1]).params["fidelity"] == 4


def learning(folder: Path) -> fake.Evaluate:
    """The further trained, the truer; weights lie in the store."""

    async def evaluate(assignment: Assignment) -> Outcome:
        outcome = await fake.evaluate(assignment)
        if assignment.kind is not TrialKind.EVALUATE:
            return outcome
        fidelity = assignment.params["fidelity"]
        noise = int(hashlib.sha256(f"{assignment.seed}:{fidelity}".encode()).hexdigest()[:4], 16) / 0xFFFF
        metrics = {"accuracy": fake.fitness(assignment) + noise / fidelity}
        if "resumedFidelity" in assignment.params:
            assert (folder / assignment.params["checkpoint"] / "weights").is_file()
        path = folder / outcome.artifacts["checkpoint"] / "weights"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("w")
        return outcome.model_copy(update={"metrics": metrics})

    return evaluate


@pytest.mark.parametrize("strategy", ["asha", "hyperband"])
@pytest.mark.parametrize("parallel", [1, 4])
async def test_promotions_find_the_weights_and_what_nobody_needs_goes(
    tmp_path: Path, strategy: str, parallel: int
) -> None:
    wanted = fake.experiment(strategy, budget={"maxTrials": 50}, parallelTrials=parallel, **EIGHT)
    launcher = fake.FakeLauncher(learning(tmp_path))
    driver = Driver(wanted, open_store(str(tmp_path)), launcher)
    summary = await driver.run()
    assert (summary.state, summary.trials["succeeded"]) == ("Succeeded", 50)
    rows = driver.table.rows.values()
    promoted = {row.params["checkpointOf"] for row in rows if "checkpointOf" in row.params}
    assert promoted
    best = driver.table.rows[summary.best[0].number]
    assert best.fidelity == 8 == driver.table.highest_fidelity
    assert best.values[0] == max(row.values[0] for row in rows if row.fidelity == 8)
    assert summary.best[0].fidelity == 8.0
    top = {row.number for row in rows if row.fidelity == 8} - {each.number for each in summary.best[:2]}
    assert top
    for row in rows:
        kept = row.number not in promoted | top
        assert ("checkpoint" in row.artifacts) == kept
        assert (tmp_path / f"trials/{row.number}/weights").is_dir() == kept


async def test_a_target_below_the_top_does_not_end_the_search(tmp_path: Path) -> None:
    wanted = fake.experiment(
        "asha", objectives=[{"metric": "accuracy", "target": "0.01"}], budget={"maxTrials": 60}, **EIGHT
    )
    summary = await fake.run(tmp_path, wanted, fake.FakeLauncher(learning(tmp_path)))
    assert summary.reason == reasons.GOAL_REACHED
    assert summary.trials["succeeded"] > 3
    submitted = {each["number"]: each for each in read_ledger(open_store(str(tmp_path))) if each["type"] == "submitted"}
    assert submitted[summary.best[0].number]["params"]["fidelity"] == 8


@pytest.mark.parametrize("strategy", ["asha", "hyperband"])
async def test_a_restart_in_the_middle_gives_the_same_history(tmp_path: Path, strategy: str) -> None:
    wanted = fake.experiment(strategy, budget={"maxTrials": 40}, **EIGHT)
    whole = await fake.run(tmp_path / "whole", wanted, fake.FakeLauncher(learning(tmp_path / "whole")))
    folder = tmp_path / "cut"
    launcher = fake.FakeLauncher(learning(folder))
    driver = Driver(wanted, open_store(str(folder)), launcher)
    running = asyncio.create_task(driver.run())
    while driver.table.counted_finished < 17:
        await asyncio.sleep(0.005)
    driver.request_stop()
    assert (await running).state == "Stopped"
    again = await fake.run(folder, wanted, fake.FakeLauncher(learning(folder)))
    assert again.history_hash == whole.history_hash


# --- stopping


def stopping(name: str, **config: Any) -> dict[str, Any]:
    return {"stopping": {"name": name, "config": config}}


class Reporting(fake.FakeLauncher):
    """Trials of four epochs, each reported and answered before the next; a stopped one ends with what it has."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[int, int] = {}  # by trial the epochs after which it was told to stop

    async def _trial(self, client: fake.Client, grant: Any) -> Any:
        assignment = Assignment.model_validate(grant["assignment"])
        outcome = await fake.evaluate(assignment)
        if assignment.kind is TrialKind.EVALUATE:
            assert assignment.number is not None
            for epoch in range(4):
                reached = fake.fitness(assignment) * (epoch + 1) / 4
                points = [{"step": epoch, "metrics": {"accuracy": reached}}]
                status, reply = await client.report(grant, points=points)
                if status != 200:
                    break
                if reply["action"] == "stop":
                    self.told[assignment.number] = epoch + 1
                    outcome = Outcome(state=TrialState.PRUNED, metrics={"accuracy": reached})
                    break
        status, reply = await client.result(grant, outcome, client.asking(5.0))
        return reply.get("next", {"state": "done"}) if status == 200 else {"state": "done"}


@pytest.mark.parametrize("rule", ["asha", "median"])
async def test_a_running_trial_is_told_to_stop(tmp_path: Path, rule: str) -> None:
    wanted = fake.experiment(budget={"maxTrials": 30}, parallelTrials=3, **stopping(rule, grace=2))
    launcher = Reporting()
    driver = Driver(wanted, open_store(str(tmp_path)), launcher)
    summary = await driver.run()
    stopped = {row.number: row for row in driver.table.rows.values() if row.state is TrialState.PRUNED}
    assert summary.state == "Succeeded"
    assert 3 <= summary.trials["pruned"] == len(stopped) == len(launcher.told)
    assert set(launcher.told.values()) <= {2, 3, 4}
    for number, row in stopped.items():
        assert row.message.startswith("stopped ") and not row.artifacts
        assert number not in {best.number for best in summary.best}
    records = [record for record in read_ledger(open_store(str(tmp_path))) if record["type"] == "stopped"]
    assert {record["number"] for record in records} == set(stopped)
    assert {record["rule"] for record in records} == {rule}


@pytest.mark.parametrize("rule", ["asha", "median"])
async def test_a_restarted_rule_knows_what_it_knew(tmp_path: Path, rule: str) -> None:
    wanted = fake.experiment(budget={"maxTrials": 30}, **stopping(rule, grace=2))
    whole = await fake.run(tmp_path / "whole", wanted, Reporting())
    assert whole.trials["pruned"] >= 3
    for after in (4, 11, 20):
        folder = tmp_path / str(after)
        driver = Driver(wanted, open_store(str(folder)), Reporting())
        running = asyncio.create_task(driver.run())
        while driver.table.counted_finished < after:
            await asyncio.sleep(0.005)
        driver.request_stop()
        assert (await running).state == "Stopped"
        again = await fake.run(folder, wanted, Reporting())
        assert again.history_hash == whole.history_hash
        assert json.loads((folder / "summary.json").read_text())["trials"] == whole.trials


async def test_a_stopped_trial_whose_worker_is_lost_is_not_leased_again(tmp_path: Path) -> None:
    class Dying(Reporting):
        """Its workers are gone when they are told to stop."""

        async def _trial(self, client: fake.Client, grant: Any) -> Any:
            number = grant["assignment"].get("number")
            if grant["assignment"]["kind"] != "evaluate":
                return await super()._trial(client, grant)
            seen.append(number)
            for epoch in range(4):
                value = (20 - number) * (epoch + 1) / 100  # the first is the best
                points = [{"step": epoch, "metrics": {"accuracy": value}}]
                _, reply = await client.report(grant, points=points)
                if reply["action"] == "stop":
                    assert self.context is not None
                    self.context.on_lost(WorkerLost(client.name, FailureClass.INFRASTRUCTURE, "gone"))
                    return await client.lease(5.0)
            outcome = Outcome(state=TrialState.SUCCEEDED, metrics={"accuracy": value})
            _, reply = await client.result(grant, outcome, client.asking(5.0))
            return reply.get("next", {"state": "done"})

    seen: list[int] = []
    wanted = fake.experiment(budget={"maxTrials": 12}, **stopping("asha", grace=2, reduction=2))
    driver = Driver(wanted, open_store(str(tmp_path)), Dying())
    summary = await driver.run()
    assert seen == list(range(1, 13))
    assert summary.trials["pruned"] == 11
    assert driver.table.rows[5].metrics == {"accuracy": 0.3}
    assert driver.table.rows[5].message.startswith("stopped at 2 steps")


async def test_a_rule_wants_to_hear_soon(tmp_path: Path) -> None:
    heard: list[float] = []

    class Listening(Reporting):
        async def _trial(self, client: fake.Client, grant: Any) -> Any:
            heard.append(grant["reportSeconds"])
            return await super()._trial(client, grant)

    await fake.run(tmp_path / "with", fake.experiment(**stopping("median")), Listening())
    assert set(heard) == {1.0}
    heard.clear()
    await fake.run(tmp_path / "without", fake.experiment(), Listening())
    assert set(heard) == {5.0}
