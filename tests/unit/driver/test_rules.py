"""How a search ends, fails, goes on and is refused."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path
from typing import Any

import pytest

from archsearch import registry
from archsearch.protocol import Assignment, FailureClass, Outcome, Resources, TrialKind, TrialState
from archsearch.spec import reasons
from archsearch.spec.status import SearchStatus
from archsearch.store import open_store
from archsearch_cli.results import read_run
from archsearch_strategies.driver import Driver
from archsearch_strategies.ledger import read_ledger
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig
from tests.support import fake_worker as fake


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_ledger(open_store(str(folder))) if record["type"] == kind]


def failing(numbers: range, failure: FailureClass) -> fake.Evaluate:
    async def evaluate(assignment: Assignment) -> Outcome:
        if assignment.number in numbers:
            return Outcome(state=TrialState.FAILED, failure=failure, message="it broke")
        return await fake.evaluate(assignment)

    return evaluate


async def test_from_start_to_summary(tmp_path: Path) -> None:
    seen: list[SearchStatus] = []
    summary = await fake.run(tmp_path, fake.experiment(parallelTrials=3), listener=seen.append)
    assert (summary.state, summary.reason) == ("Succeeded", reasons.MAX_TRIALS_REACHED)
    assert summary.trials["succeeded"] == 12
    assert [trial.metrics["accuracy"] for trial in summary.best] == sorted(
        (trial.metrics["accuracy"] for trial in summary.best), reverse=True
    )
    assert summary.model == "best"
    assert seen[-1].progress == "12/12"
    assert seen[-1].verdict.state == "Succeeded"
    assert seen[-1].best[0].number == summary.best[0].number
    assert json.loads((tmp_path / "space.json").read_text())["digest"] == fake.SPACE.digest


async def test_the_target_ends_it(tmp_path: Path) -> None:
    wanted = fake.experiment(objectives=[{"metric": "accuracy", "target": "0.3"}], budget={"maxTrials": 200})
    summary = await fake.run(tmp_path, wanted)
    assert (summary.state, summary.reason) == ("Succeeded", reasons.GOAL_REACHED)
    assert summary.best[0].metrics["accuracy"] >= 0.3
    assert sum(summary.trials.values()) < 200


async def test_too_many_failures_fail_it_and_a_raised_budget_goes_on(tmp_path: Path) -> None:
    launcher = fake.FakeLauncher(failing(range(2, 5), FailureClass.USER_ERROR))
    wanted = fake.experiment(budget={"maxTrials": 12, "maxFailedTrials": 2})
    summary = await fake.run(tmp_path, wanted, launcher)
    assert (summary.state, summary.reason) == ("Failed", reasons.TOO_MANY_FAILED_TRIALS)
    assert "it broke" in summary.message
    assert summary.failures == {"userError": 3}
    again = await fake.run(tmp_path, fake.experiment(budget={"maxTrials": 12, "maxFailedTrials": 3}))
    assert (again.state, again.trials["failed"], again.trials["succeeded"]) == ("Succeeded", 3, 9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", ["target", "budget", "stop", "failures"])
async def test_the_strategy_is_dropped_without_a_warning(tmp_path: Path, how: str) -> None:
    """Its coroutine, and what it iterates over, are in the middle of something when the search ends."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    spec: dict[str, Any] = {"budget": {"maxTrials": 40}, "parallelTrials": 3}
    if how == "target":
        spec["objectives"] = [{"metric": "accuracy", "target": "0.3"}]
    broken = range(5, 20) if how == "failures" else range(0)
    inner = failing(broken, FailureClass.USER_ERROR)
    launcher = fake.FakeLauncher()
    wanted = fake.experiment("regularized-evolution", {"population": 4, "sample": 2}, **spec)
    driver = Driver(wanted, open_store(str(tmp_path)), launcher)

    async def evaluate(assignment: Assignment) -> Outcome:
        if how == "stop" and assignment.number == 9:
            driver.request_stop()
        return await inner(assignment)

    launcher.evaluate = evaluate
    summary = await driver.run()
    assert summary.state == {"stop": "Stopped", "failures": "Failed"}.get(how, "Succeeded")
    gc.collect()  # what was forgotten would tell so now
    await asyncio.sleep(0)
    assert told == []


async def test_gpu_seconds_and_duration(tmp_path: Path) -> None:
    async def costly(assignment: Assignment) -> Outcome:
        outcome = await fake.evaluate(assignment)
        return outcome.model_copy(update={"resources": Resources(gpu_seconds=10.0)})

    wanted = fake.experiment(budget={"maxTrials": 100, "maxGpuSeconds": 35})
    summary = await fake.run(tmp_path / "gpu", wanted, fake.FakeLauncher(costly))
    assert (summary.reason, summary.trials["succeeded"]) == (reasons.BUDGET_EXHAUSTED, 4)
    clock = iter(range(0, 1_000_000, 10))
    wanted = fake.experiment(budget={"maxTrials": 100, "maxDurationSeconds": 500})
    summary = await fake.run(tmp_path / "time", wanted, wall=lambda: float(next(clock)))
    assert (summary.state, summary.reason) == ("Succeeded", reasons.DEADLINE_EXCEEDED)


async def test_an_exhausted_space_ends_it(tmp_path: Path) -> None:
    summary = await fake.run(tmp_path, fake.experiment(budget={"maxTrials": 5000}, parallelTrials=16))
    assert summary.reason == reasons.SEARCH_FINISHED
    assert summary.trials["succeeded"] == fake.SPACE.size() == 768


async def test_a_raised_budget_reopens_and_gives_the_same_history(tmp_path: Path) -> None:
    config = {"population": 4, "sample": 2}
    short = fake.experiment("regularized-evolution", config, budget={"maxTrials": 6})
    longer = fake.experiment("regularized-evolution", config, budget={"maxTrials": 12})
    assert (await fake.run(tmp_path / "a", short)).trials["succeeded"] == 6
    reopened = await fake.run(tmp_path / "a", longer)
    assert reopened.history_hash == (await fake.run(tmp_path / "b", longer)).history_hash
    assert len(records(tmp_path / "a", "reopened")) == 1


@pytest.mark.parametrize(
    ("failure", "attempts"),
    [(FailureClass.OUT_OF_MEMORY, 3), (FailureClass.USER_ERROR, 1), (FailureClass.TIMEOUT, 2)],
)
async def test_each_class_has_its_own_retries(tmp_path: Path, failure: FailureClass, attempts: int) -> None:
    launcher = fake.FakeLauncher(failing(range(2, 3), failure))
    retries = {"outOfMemory": 2, "userError": 0, "timeout": 1}
    summary = await fake.run(tmp_path, fake.experiment(trials={"retries": retries}), launcher)
    assert [each.attempt for each in launcher.granted if each.number == 2] == list(range(1, attempts + 1))
    assert summary.trials["failed"] == 1
    assert summary.failures == {failure.value: attempts}


async def test_preemption_is_never_counted(tmp_path: Path) -> None:
    async def evaluate(assignment: Assignment) -> Outcome:
        if assignment.number == 2 and assignment.attempt < 8:
            return Outcome(state=TrialState.PENDING, failure=FailureClass.PREEMPTED)
        return await fake.evaluate(assignment)

    summary = await fake.run(tmp_path, fake.experiment(), fake.FakeLauncher(evaluate))
    assert summary.trials["failed"] == 0
    assert summary.failures == {"preempted": 7}


async def test_a_success_without_its_objective_is_a_bad_metric(tmp_path: Path) -> None:
    async def evaluate(assignment: Assignment) -> Outcome:
        if assignment.number == 1:
            return Outcome(state=TrialState.SUCCEEDED, metrics={"speed": 1.0})
        return await fake.evaluate(assignment)

    summary = await fake.run(tmp_path, fake.experiment(), fake.FakeLauncher(evaluate))
    assert summary.failures == {"badMetric": 1}
    assert "accuracy; it reported: speed" in records(tmp_path, "result")[0]["message"]


async def test_what_cannot_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def broken(assignment: Assignment) -> Outcome:
        return Outcome(state=TrialState.FAILED, failure=FailureClass.USER_ERROR, message="no module named my_space")

    for number, (wanted, words) in enumerate(
        [
            (fake.experiment("regularized-evolution", {"population": 3, "sample": 5}), "sample"),
            (fake.experiment("evolutoin"), "regularized-evolution"),
            (fake.experiment(objectives=[{"metric": "speed"}]), "speed"),
            (fake.experiment(), "no module named my_space"),
        ]
    ):
        seen: list[SearchStatus] = []
        folder = tmp_path / str(number)
        summary = await fake.run(folder, wanted, fake.FakeLauncher(broken), listener=seen.append)
        assert (summary.state, summary.reason) == ("Failed", reasons.SPEC_INVALID)
        assert words in summary.message
        assert seen[-1].verdict.accepted is False


async def test_another_file_is_refused_with_the_difference(tmp_path: Path) -> None:
    await fake.run(tmp_path, fake.experiment())
    other = await fake.run(tmp_path, fake.experiment(seed=5, parallelTrials=2))
    assert (other.state, other.reason) == ("Failed", reasons.SPEC_INVALID)
    assert "spec.seed: the run has 0, this file 5" in other.message
    assert "parallelTrials:" not in other.message


async def test_a_file_that_was_refused_before_its_search_began_may_be_corrected(tmp_path: Path) -> None:
    async def broken(assignment: Assignment) -> Outcome:
        return Outcome(state=TrialState.FAILED, failure=FailureClass.USER_ERROR, message="spec.evaluator: no such file")

    first = await fake.run(tmp_path, fake.experiment(), fake.FakeLauncher(broken))
    assert (first.reason, first.message) == (reasons.SPEC_INVALID, "spec.evaluator: no such file")
    corrected = fake.experiment(seed=5, objectives=[{"metric": "accuracy", "goal": "Minimize"}])
    again = await fake.run(tmp_path, corrected)
    assert again.state == "Succeeded"
    table = read_run(open_store(str(tmp_path)))
    assert [each.goal for each in table.objectives] == ["Minimize"]
    other = await fake.run(tmp_path, fake.experiment(seed=6))
    assert "spec.seed: the run has 5, this file 6" in other.message


async def test_a_search_without_an_answer_says_why(tmp_path: Path) -> None:
    wanted = fake.experiment(budget={"maxTrials": 3, "maxFailedTrials": 9})
    launcher = fake.FakeLauncher(failing(range(1, 4), FailureClass.USER_ERROR))
    summary = await fake.run(tmp_path / "failed", wanted, launcher)
    assert (summary.state, summary.reason) == ("Failed", reasons.MAX_TRIALS_REACHED)
    assert summary.message.startswith("budget.maxTrials 3 trials are finished; the last: ")
    assert "it broke" in summary.message

    async def large(assignment: Assignment) -> Outcome:
        if assignment.number is None:
            return await fake.evaluate(assignment)
        return Outcome(state=TrialState.INFEASIBLE, message="params is 7562, outside the constraint (max 10)")

    summary = await fake.run(tmp_path / "infeasible", wanted, fake.FakeLauncher(large))
    assert summary.trials["infeasible"] == 3
    assert summary.message.endswith("; the last: params is 7562, outside the constraint (max 10)")


async def test_suspend_gives_trials_back_and_resume_goes_on(tmp_path: Path) -> None:
    wanted = fake.experiment(parallelTrials=2)
    launcher = fake.FakeLauncher()
    driver = Driver(wanted, open_store(str(tmp_path)), launcher)
    suspended = asyncio.Event()

    async def evaluate(assignment: Assignment) -> Outcome:
        if assignment.number == 4 and assignment.attempt == 1:
            driver.update(wanted.spec.model_copy(update={"suspend": True}))
            return Outcome(state=TrialState.PENDING, failure=FailureClass.PREEMPTED)
        return await fake.evaluate(assignment)

    def listen(status: SearchStatus) -> None:
        if status.verdict.state == "Suspended" and status.trials.running == 0 and launcher.alive() == 0:
            suspended.set()

    launcher.evaluate, driver.bulletin.listener = evaluate, listen
    running = asyncio.create_task(driver.run())
    await suspended.wait()
    driver.update(wanted.spec)
    summary = await running
    assert (summary.state, summary.trials["succeeded"]) == ("Succeeded", 12)
    assert len(records(tmp_path, "suspended")) == len(records(tmp_path, "resumed")) == 1


async def test_workers_that_never_come_up_fail_it(tmp_path: Path) -> None:
    summary = await fake.run(tmp_path, fake.experiment(), fake.FakeLauncher(crash=1000))
    assert (summary.state, summary.reason) == ("Failed", reasons.WORKERS_FAILED)
    assert "crashed" in summary.message


class Scripted(Strategy[StrategyConfig]):
    """Two fixed architectures, the first three times over, and an expensive thought."""

    width = 1
    computed = 0

    async def search(self, run: Run) -> None:
        first = run.space.validate({f"op{i}": "conv" for i in range(4)} | {"width": 1})
        same = [run.submit(TrialKind.EVALUATE, first) for _ in range(2)]
        for _ in same:
            await run.completed()
        run.stage("thinking")
        value = await run.memo(self._think)
        await run.trial(TrialKind.EVALUATE, dict(first) | {"width": value})
        await run.trial(TrialKind.EVALUATE, first)

    def _think(self) -> int:
        type(self).computed += 1
        return self.width


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    real = registry.find
    chosen = type("Scripted", (Scripted,), {"computed": 0, "width": 2})
    wrapped = lambda group, name: chosen if group == "archsearch.strategies" else real(group, name)  # noqa: E731
    monkeypatch.setattr(registry, "find", wrapped)
    return chosen


async def test_a_known_result_is_reused(tmp_path: Path, scripted: type[Scripted]) -> None:
    launcher = fake.FakeLauncher()
    summary = await fake.run(tmp_path, fake.experiment(), launcher)
    assert summary.reason == reasons.SEARCH_FINISHED
    assert (summary.trials["succeeded"], summary.trials["cached"]) == (2, 2)
    assert sorted(each.number or 0 for each in launcher.granted if each.kind is TrialKind.EVALUATE) == [1, 3]
    assert {each["source"] for each in records(tmp_path, "result") if each["state"] == "cached"} == {1}


async def test_a_replay_repeats_no_computation_and_notices_another_strategy(
    tmp_path: Path, scripted: type[Scripted]
) -> None:
    launcher = fake.FakeLauncher()
    driver = Driver(fake.experiment(), open_store(str(tmp_path)), launcher)

    async def stop_at_three(assignment: Assignment) -> Outcome:
        if assignment.number == 3:
            driver.request_stop()
            await asyncio.Event().wait()
        return await fake.evaluate(assignment)

    launcher.evaluate = stop_at_three
    assert (await driver.run()).state == "Stopped"
    assert scripted.computed == 1

    async def other(self: Scripted, run: Run) -> None:
        await run.trial(TrialKind.EVALUATE, {f"op{i}": "skip" for i in range(4)} | {"width": 4})

    search = scripted.search
    scripted.search = other  # type: ignore[method-assign]
    broken = await fake.run(tmp_path, fake.experiment())
    assert (broken.state, broken.reason) == ("Failed", reasons.NON_DETERMINISTIC)
    assert '"op0": "conv"' in broken.message
    assert '"op0": "skip"' in broken.message
    scripted.search = search  # type: ignore[method-assign]
    assert (await fake.run(tmp_path, fake.experiment())).state == "Succeeded"
    assert scripted.computed == 1


async def test_a_strategy_that_raises_fails_the_run_with_its_words(tmp_path: Path, scripted: type[Scripted]) -> None:
    async def broken(self: Scripted, run: Run) -> None:
        raise ValueError("no idea")

    scripted.search = broken  # type: ignore[method-assign]
    summary = await fake.run(tmp_path, fake.experiment())
    assert (summary.state, summary.reason) == ("Failed", reasons.STRATEGY_ERROR)
    assert "ValueError: no idea" in summary.message
