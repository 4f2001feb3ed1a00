"""A run that begins with what earlier runs know."""

from __future__ import annotations

import asyncio
import logging
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from archsearch import registry
from archsearch.protocol import Assignment, Outcome, TrialKind, TrialState
from archsearch.space import Categorical, SearchSpace
from archsearch.spec import reasons
from archsearch.spec.experiment import NASExperiment
from archsearch.spec.status import SearchStatus
from archsearch.store import open_store
from archsearch.store.checkpoint import write_manifest
from archsearch_strategies.checks import check_experiment, missing_runs
from archsearch_strategies.driver import Driver
from archsearch_strategies.driver.summary import Summary
from archsearch_strategies.ledger import read_ledger
from archsearch_strategies.strategy import Run, Strategy
from tests.support import fake_worker as fake
from tests.support.seaweedfs import S3Server

ORIGIN = {"code": "c0de", "data": {"digits": "da7a"}}


def told(origin: Any = None, space: SearchSpace = fake.SPACE) -> fake.Evaluate:
    """Answers all trials; the description tells of code and data."""

    async def evaluate(assignment: Assignment) -> Outcome:
        if assignment.kind is TrialKind.DESCRIBE:
            payload = {"space": space.to_json(), "digest": space.digest, "origin": ORIGIN if origin is None else origin}
            return Outcome(state=TrialState.SUCCEEDED, payload=payload)
        outcome = await fake.evaluate(assignment)
        return outcome.model_copy(update={"metrics": outcome.metrics | {"loss": 1 - fake.fitness(assignment)}})

    return evaluate


def forbidding(decision: str, evaluate: fake.Evaluate | None = None) -> fake.Evaluate:
    """Architectures with this first operation are infeasible."""
    evaluate = evaluate or told()

    async def judge(assignment: Assignment) -> Outcome:
        if assignment.kind is TrialKind.EVALUATE and (assignment.architecture or {})["op0"] == decision:
            return Outcome(state=TrialState.INFEASIBLE, message=f"{decision} is too large")
        return await evaluate(assignment)

    return judge


async def go(folder: Path, *earlier: Path, evaluate: fake.Evaluate | None = None, **spec: Any) -> tuple[Summary, Any]:
    """A whole run, and the launcher that knows what was granted."""
    strategy = spec.pop("strategy", "random")
    config = spec.pop("config", None)
    wanted = fake.experiment(strategy, config, warmStart=[{"uri": str(each)} for each in earlier], **spec)
    launcher = fake.FakeLauncher(evaluate or told())
    return await fake.run(folder, wanted, launcher), launcher


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of seed 4. Others read it, and leave it as it is."""
    folder = tmp_path_factory.mktemp("earlier") / "first"
    asyncio.run(go(folder, seed=4))
    return folder


def trained(launcher: fake.FakeLauncher) -> list[Assignment]:
    return [each for each in launcher.granted if each.kind is TrialKind.EVALUATE]


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_ledger(open_store(str(folder))) if record["type"] == kind]


async def test_known_results_are_not_computed_again(tmp_path: Path) -> None:
    first, launcher = await go(tmp_path / "first", seed=4)
    assert len(trained(launcher)) == 12
    second, launcher = await go(tmp_path / "second", tmp_path / "first", seed=4)
    assert trained(launcher) == []
    assert (second.trials["cached"], second.trials["succeeded"], second.state) == (12, 0, "Succeeded")
    assert second.history_hash == first.history_hash  # a known result is as good as a computed one
    for number, result in enumerate(records(tmp_path / "second", "result"), 1):
        assert (result["source"], result["sourceUri"]) == (number, str(tmp_path / "first"))
        weights = f"{tmp_path}/first/trials/{number}/weights"  # those of trials that are not among the best are gone
        assert result.get("artifacts", {}) in ({}, {"checkpoint": weights})
    assert sum(bool(each.get("artifacts")) for each in records(tmp_path / "second", "result")) >= 1
    # The third has it from the second, and names the one that computed it.
    _, launcher = await go(tmp_path / "third", tmp_path / "second", seed=4)
    assert trained(launcher) == []
    assert {each["sourceUri"] for each in records(tmp_path / "third", "result")} == {str(tmp_path / "first")}


async def test_more_trials_go_on_where_the_known_ones_end(tmp_path: Path, first: Path) -> None:
    summary, launcher = await go(tmp_path / "second", first, seed=4, budget={"maxTrials": 15})
    assert [each.number for each in trained(launcher)] == [13, 14, 15]
    assert (summary.trials["cached"], summary.trials["succeeded"]) == (12, 3)


@pytest.mark.parametrize(
    ("change", "origin"),
    [
        ({"seed": 5}, ORIGIN),
        ({"evaluator": {"name": "classification", "config": {"dataset": "digits", "epochs": 9}}}, ORIGIN),
        ({"modelSpace": {"zoo": {"name": "nasbench201", "args": {"channels": 4}}}}, ORIGIN),
        ({"trials": {"image": "mine:2"}}, ORIGIN),
        ({}, {"code": "0ther", "data": {"digits": "da7a"}}),
        ({}, {"code": "c0de", "data": {"digits": "0ther"}}),
        ({}, {"code": "c0de", "data": None}),  # not known
        ({}, {"code": None, "data": {"digits": "da7a"}}),
        ({}, {}),
    ],
)
async def test_what_differs_is_computed(
    tmp_path: Path, first: Path, change: dict[str, Any], origin: dict[str, Any]
) -> None:
    summary, launcher = await go(tmp_path / "second", first, evaluate=told(origin), **{"seed": 4, **change})
    assert (len(trained(launcher)), summary.trials["cached"]) == (12, 0)
    (prior,) = records(tmp_path / "second", "prior")
    comparable = change == {"seed": 5}
    assert {each.get("group", 0) for each in prior["points"]} == {0 if comparable else 1}
    assert len(prior["points"]) == 12


async def test_an_option_at_its_default_is_the_same_written_out(tmp_path: Path) -> None:
    await go(tmp_path / "first", seed=4, evaluator={"name": "classification", "config": {}})
    explicit = {"name": "classification", "config": {"dataset": "digits"}}
    _, launcher = await go(tmp_path / "second", tmp_path / "first", seed=4, evaluator=explicit)
    assert trained(launcher) == []


async def test_a_run_of_two_versions_gives_prior_points_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await go(tmp_path / "first", seed=4, budget={"maxTrials": 6})
    monkeypatch.setattr("archsearch.__version__", "0.0.1")
    await go(tmp_path / "first", seed=4)
    monkeypatch.undo()
    _, launcher = await go(tmp_path / "second", tmp_path / "first", seed=4)
    assert len(trained(launcher)) == 12
    assert len(records(tmp_path / "second", "prior")[0]["points"]) == 12


async def test_known_infeasible_architectures_are_not_tried(tmp_path: Path) -> None:
    first, _ = await go(tmp_path / "first", evaluate=forbidding("conv"), seed=4)
    assert first.trials["infeasible"] > 0
    second, launcher = await go(tmp_path / "second", tmp_path / "first", evaluate=forbidding("conv"), seed=4)
    assert trained(launcher) == []
    assert second.trials["infeasible"] == first.trials["infeasible"]
    taken = [each for each in records(tmp_path / "second", "result") if each["state"] == "infeasible"]
    assert {each["message"] for each in taken} == {"conv is too large"}
    assert {each["sourceUri"] for each in taken} == {str(tmp_path / "first")}
    # Under other constraints they may be feasible.
    _, launcher = await go(tmp_path / "third", tmp_path / "first", seed=4, constraints=[{"metric": "loss", "max": "9"}])
    assert len(trained(launcher)) == first.trials["infeasible"]


async def test_a_known_result_outside_a_new_constraint_is_infeasible(tmp_path: Path, first: Path) -> None:
    losses = [each["metrics"]["loss"] for each in records(first, "result")]
    bound = sorted(losses)[4]
    constraints = [{"metric": "loss", "max": str(bound)}]
    summary, launcher = await go(tmp_path / "second", first, seed=4, constraints=constraints)
    assert trained(launcher) == []
    assert (summary.trials["cached"], summary.trials["infeasible"]) == (5, 7)
    # A metric that was not recorded has to be computed.
    bounds = [{"metric": "params", "max": "1e9"}]
    _, launcher = await go(
        tmp_path / "third",
        first,
        seed=4,
        constraints=bounds,
        budget={"maxTrials": 2, "maxFailedTrials": 9},
    )
    assert len(trained(launcher)) == 2


async def test_the_same_infeasible_architecture_within_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(Strategy[Any]):
        async def search(self, run: Run) -> None:
            architecture = {"op0": "conv", "op1": "pool", "op2": "skip", "op3": "none", "width": 1}
            for replicate in (0, 0, 1):
                await run.trial("evaluate", architecture, replicate=replicate)

    find = registry.find
    monkeypatch.setattr(
        registry, "find", lambda group, name: Twice if group.endswith("strategies") else find(group, name)
    )
    summary, launcher = await go(tmp_path / "first", evaluate=forbidding("conv"))
    assert [each.number for each in trained(launcher)] == [1, 3]
    assert summary.trials["infeasible"] == 3
    assert [each.get("source") for each in records(tmp_path / "first", "result")] == [None, 1, None]


@pytest.mark.parametrize("kept", [True, False])
async def test_the_best_is_exported_from_where_its_weights_lie(tmp_path: Path, kept: bool) -> None:
    first, _ = await go(tmp_path / "first", seed=4)
    best = first.best[0].number
    folder = tmp_path / "first" / "trials" / str(best) / "weights"
    folder.mkdir(parents=True)
    (folder / "tensors.safetensors").write_bytes(b"weights")
    if kept:
        write_manifest(folder)
    _, launcher = await go(tmp_path / "second", tmp_path / "first", seed=4)
    (export,) = [each for each in launcher.granted if each.kind is TrialKind.EXPORT]
    # Weights that are gone are trained again, from the same seed.
    assert export.params.get("checkpoint") == (str(folder) if kept else None)
    assert export.seed == records(tmp_path / "first", "submitted")[(best or 0) - 1]["seed"]
    assert folder.is_dir()  # another run's: never deleted


async def test_prior_points_are_the_first_population(tmp_path: Path) -> None:
    await go(tmp_path / "first", seed=4, budget={"maxTrials": 30})
    config = {"population": 6, "sample": 2}
    _, launcher = await go(
        tmp_path / "second", tmp_path / "first", strategy="regularized-evolution", config=config, seed=5
    )
    results = records(tmp_path / "first", "result")
    order = sorted(range(30), key=lambda at: -results[at]["metrics"]["accuracy"])
    submitted = records(tmp_path / "first", "submitted")
    wanted = [submitted[at]["architecture"] for at in order[:6]]
    assert [each.architecture for each in trained(launcher)[:6]] == wanted


@pytest.mark.parametrize("strategy", ["random", "regularized-evolution", "predictor"])
async def test_it_goes_on_without_the_earlier_run(
    tmp_path: Path, strategy: str, caplog: pytest.LogCaptureFixture
) -> None:
    await go(tmp_path / "first", seed=4, budget={"maxTrials": 20})
    configs = {"regularized-evolution": {"population": 4, "sample": 2}, "predictor": {"initial": 4}}
    spec: dict[str, Any] = {"strategy": strategy, "config": configs.get(strategy, {}), "seed": 5}
    whole, _ = await go(tmp_path / "whole", tmp_path / "first", **spec)
    name = spec.pop("strategy")
    wanted = fake.experiment(name, spec.pop("config"), warmStart=[{"uri": str(tmp_path / "first")}], **spec)
    launcher = fake.FakeLauncher()
    driver = Driver(wanted, open_store(str(tmp_path / "second")), launcher)

    async def until_seven(assignment: Assignment) -> Outcome:
        if assignment.number == 7:
            driver.request_stop()
        return await told()(assignment)

    launcher.evaluate = until_seven
    assert (await driver.run()).state == "Stopped"
    shutil.rmtree(tmp_path / "first")
    assert check_experiment(wanted) == []
    with caplog.at_level(logging.WARNING):
        again = await fake.run(tmp_path / "second", wanted, fake.FakeLauncher(told()))
    assert "earlier runs cannot be read any more" in caplog.text
    assert (again.state, again.history_hash) == ("Succeeded", whole.history_hash)
    assert len(records(tmp_path / "second", "prior")) == 1
    # Finished, it asks for nothing at all.
    caplog.clear()
    assert (await fake.run(tmp_path / "second", wanted)).history_hash == whole.history_hash
    assert caplog.text == ""


async def test_a_ledger_that_is_still_written_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    wanted = fake.experiment(seed=4)
    launcher = fake.FakeLauncher()
    driver = Driver(wanted, open_store(str(tmp_path / "first")), launcher)

    async def during(assignment: Assignment) -> Outcome:
        if assignment.number == 8:
            results.append(await go(tmp_path / "second", tmp_path / "first", seed=4))
        return await told()(assignment)

    results: list[tuple[Summary, Any]] = []
    launcher.evaluate = during
    assert (await driver.run()).state == "Succeeded"
    ((summary, second),) = results
    assert summary.trials["cached"] == 7
    assert [each.number for each in trained(second)] == [8, 9, 10, 11, 12]


async def refused(folder: Path, earlier: str | Path, evaluate: fake.Evaluate | None = None, **spec: Any) -> str:
    """The message of an experiment that is refused before a trial of it was given away."""
    launcher = fake.FakeLauncher(evaluate or told())
    seen: list[SearchStatus] = []
    wanted = fake.experiment(warmStart=[{"uri": str(earlier)}], **spec)
    summary = await fake.run(folder, wanted, launcher, listener=seen.append)
    assert (summary.state, summary.reason) == ("Failed", reasons.SPEC_INVALID)
    assert trained(launcher) == []
    assert seen[-1].verdict.accepted is False
    assert seen[-1].verdict.message == summary.message
    return summary.message


async def test_runs_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for place in (empty, tmp_path / "nowhere"):
        message = await refused(tmp_path / "a", place)
        assert message.startswith(f"spec.warmStart[0].uri: {place} holds no run of archsearch")
    assert not (tmp_path / "nowhere").exists()  # nothing is written there
    assert "is this run itself" in await refused(tmp_path / "b", tmp_path / "b")

    damaged = tmp_path / "damaged"
    await go(damaged)
    for segment in (damaged / "ledger").iterdir():
        if segment.is_file():
            segment.write_bytes(segment.read_bytes()[:-9] + b"\0" * 9)
    message = await refused(tmp_path / "c", damaged)
    assert "spec.warmStart[0].uri: the ledger of" in message

    other = SearchSpace([Categorical("op", ("a", "b"))])
    await go(tmp_path / "d")
    message = await refused(tmp_path / "e", tmp_path / "d", told(space=other))
    assert fake.SPACE.digest[:12] in message
    assert other.digest[:12] in message


async def test_a_run_without_a_space_yet_is_refused(tmp_path: Path) -> None:
    async def broken(assignment: Assignment) -> Outcome:
        return Outcome(state=TrialState.FAILED, message="no such class")

    await go(tmp_path / "first", evaluate=broken)
    assert "has no results" in await refused(tmp_path / "second", tmp_path / "first")


async def test_another_metric_gives_no_prior_points_and_a_word(
    tmp_path: Path, first: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objectives = [{"metric": "loss", "goal": "Minimize"}]
    await go(tmp_path / "second", first, objectives=objectives, seed=5)
    points = records(tmp_path / "second", "prior")[0]["points"]
    assert [each["values"] for each in points] == [[-each["metrics"]["loss"]] for each in points]
    values = [each["values"][0] for each in points]
    assert values == sorted(values, reverse=True)  # a small loss comes first
    with caplog.at_level(logging.WARNING):
        spec = {"objectives": [{"metric": "perplexity"}], "evaluator": {"python": "mine:train", "config": {}}}
        await go(tmp_path / "third", first, budget={"maxTrials": 1, "maxFailedTrials": 2}, **spec)
    assert records(tmp_path / "third", "prior")[0]["points"] == []
    assert "none of its results has perplexity" in caplog.text


async def test_measured_latencies_belong_to_their_machine(tmp_path: Path) -> None:
    async def timed(assignment: Assignment) -> Outcome:
        outcome = await told()(assignment)
        return outcome.model_copy(update={"metrics": outcome.metrics | {"latencyMs": 1.0}})

    spec: dict[str, Any] = {"seed": 4, "constraints": [{"metric": "latencyMs", "max": "5"}], "evaluate": timed}
    await go(tmp_path / "first", **spec)
    summary, launcher = await go(tmp_path / "second", tmp_path / "first", **spec)
    assert (len(trained(launcher)), summary.trials["cached"]) == (12, 0)


def test_what_a_file_tells(tmp_path: Path) -> None:
    def wanted(*uris: str) -> NASExperiment:
        return fake.experiment(warmStart=[{"uri": uri} for uri in uris])

    assert check_experiment(wanted("s3://bucket/run", str(tmp_path))) == []
    faults = check_experiment(wanted("s3://b", "gs://bucket/run", "s3://bucket/run", "s3://bucket/run/"))
    assert [each.path for each in faults] == [f"spec.warmStart[{index}].uri" for index in (0, 1, 3)]
    assert "once more" in faults[-1].message
    (fault,) = missing_runs(wanted("s3://bucket/run", str(tmp_path)))
    assert (fault.path, fault.value) == ("spec.warmStart[1].uri", str(tmp_path))
    (tmp_path / "ledger").mkdir()
    assert missing_runs(wanted(str(tmp_path))) == []


async def test_an_earlier_run_in_a_bucket(tmp_path: Path, s3_server: S3Server) -> None:
    def opened(uri: str) -> Any:
        return open_store(uri, endpoint=s3_server.endpoint, credentials=s3_server.credentials)

    async def in_bucket(name: str, *earlier: str) -> fake.FakeLauncher:
        launcher = fake.FakeLauncher(told())
        wanted = fake.experiment(warmStart=[{"uri": uri} for uri in earlier], seed=4, budget={"maxTrials": 5})
        driver = Driver(wanted, opened(s3_server.uri(name)), launcher, open_earlier=opened)
        assert (await driver.run()).state == "Succeeded"
        return launcher

    name = uuid.uuid4().hex
    assert len(trained(await in_bucket(f"{name}/first"))) == 5
    launcher = await in_bucket(f"{name}/second", s3_server.uri(f"{name}/first"))
    assert trained(launcher) == []
    results = [each for each in read_ledger(opened(s3_server.uri(f"{name}/second"))) if each["type"] == "result"]
    assert {each["sourceUri"] for each in results} == {s3_server.uri(f"{name}/first")}
    # In a directory from a bucket, too.
    wanted = fake.experiment(warmStart=[{"uri": s3_server.uri(f"{name}/first")}], seed=4, budget={"maxTrials": 5})
    local = fake.FakeLauncher(told())
    summary = await Driver(wanted, open_store(str(tmp_path)), local, open_earlier=opened).run()
    assert (summary.trials["cached"], trained(local)) == (5, [])
    # A bucket that is not there is told at once.
    wanted = fake.experiment(warmStart=[{"uri": "s3://no-such-bucket-here/run"}])
    summary = await Driver(
        wanted, open_store(str(tmp_path / "b")), fake.FakeLauncher(told()), open_earlier=opened
    ).run()
    assert (summary.state, summary.reason) == ("Failed", reasons.SPEC_INVALID)
    assert "no-such-bucket-here" in summary.message
