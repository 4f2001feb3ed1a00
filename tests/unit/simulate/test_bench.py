"""`archsearch bench`: strategies against tables."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from archsearch import registry
from archsearch.evaluate.tabular import FIDELITY, RESUMED
from archsearch.protocol import TrialState
from archsearch.spec.experiment import NASExperiment
from archsearch_cli.bench import read_configs, run_all
from archsearch_cli.main import app
from archsearch_strategies.simulate import simulate_experiment
from archsearch_strategies.simulate.bench import Bench, mann_whitney, run_seed, summarize
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig, Submission

CHOICES, OPTIONS = 4, 4
TABLES = os.environ.get("ARCHSEARCH_TEST_TABLES", "")
needs_tables = pytest.mark.skipif(not TABLES, reason="ARCHSEARCH_TEST_TABLES names no folder of tables")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 architectures whose value is the sum of their decisions, and a test value that goes with it."""
    ops = np.stack(np.unravel_index(np.arange(OPTIONS**CHOICES), (OPTIONS,) * CHOICES), axis=1)
    total = ops.sum(axis=1).astype(float)
    target = tmp_path_factory.mktemp("tables") / "sums.npz"
    np.savez(
        target,
        ops=ops.astype(np.uint8),
        candidates=json.dumps([[str(option) for option in range(OPTIONS)]] * CHOICES),
        val=total,
        test=2 * total,
        early=total + np.arange(len(ops)) % 3,
        seconds=10 + total,
        loss=-total,
    )
    return target


def invoke(path: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["bench", "--table", str(path), "--jobs", "1", *options])


def results(path: Path, *options: str) -> Any:
    done = invoke(path, *options, "-o", "json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["strategies"]


def test_json_has_the_documented_form(path: Path) -> None:
    found = results(
        path,
        *("--metric", "val", "--test-metric", "test", "--strategies", "random,regularized-evolution"),
        *("--queries", "60", "--seeds", "12", "--config", "regularized-evolution.population=10"),
        *("--config", "regularized-evolution.sample=4"),
    )
    assert list(found) == ["random", "regularized-evolution"]
    evolution = found["regularized-evolution"]
    assert set(evolution) == {"final", "finalTest", "at", "queriesToOptimum", "p"}
    assert set(evolution["at"]) == {"25", "50", "60"}
    assert len(evolution["final"]) == 12
    assert evolution["finalTest"] == [2 * value for value in evolution["final"]]
    mean = sum(evolution["final"]) / 12
    assert evolution["at"]["60"]["metric"][0] == pytest.approx(mean)
    assert evolution["at"]["60"]["test"][0] == pytest.approx(2 * mean)
    assert found["random"]["p"] is None
    assert 0.0 <= evolution["p"] < 0.1
    assert set(evolution["queriesToOptimum"]) == {"mean", "median", "share"}


def test_a_whole_table_is_searched_and_a_miss_counts_one_more(path: Path) -> None:
    whole = results(path, "--metric", "val", "--strategies", "random", "--queries", "256", "--seeds", "3")["random"]
    assert whole["final"] == [12.0] * 3
    assert whole["finalTest"] == []
    assert whole["queriesToOptimum"]["share"] == 1.0
    few = results(path, "--metric", "val", "--strategies", "random", "--queries", "2", "--seeds", "3")["random"]
    assert few["queriesToOptimum"] == {"mean": 3, "median": 3, "share": 0.0}


def test_a_run_to_the_optimum_ends_there_and_tells_the_same(path: Path) -> None:
    bench = Bench(table=str(path), metric="val", queries=256)
    whole = run_seed(bench, "random", {}, 1)
    short = run_seed(dataclasses.replace(bench, to_optimum=True), "random", {}, 1)
    assert short.hit == whole.hit == len(short.chosen) < len(whole.chosen) == 256
    assert short.chosen == whole.chosen[: len(short.chosen)]
    table = bench.load()
    assert summarize(bench, table, [short], None) == summarize(bench, table, [whole], None)


def test_minimize_turns_everything_around(path: Path) -> None:
    options = ("--strategies", "regularized-evolution", "--queries", "40", "--seeds", "3")
    up = results(path, "--metric", "val", *options)["regularized-evolution"]
    down = results(path, "--metric", "loss", "--minimize", *options)["regularized-evolution"]
    assert down["final"] == [-value for value in up["final"]]
    assert (down["p"], down["queriesToOptimum"]) == (up["p"], up["queriesToOptimum"])


def test_a_cost_budget_ends_by_the_tables_seconds(path: Path) -> None:
    bench = Bench(table=str(path), metric="val", cost="seconds*2", cost_budget=500)
    trace = run_seed(bench, "random", {}, 0)
    assert trace.end == "DeadlineExceeded"
    table = bench.load()
    assert 500 - 2 * 22 < trace.seconds[-1] <= 500
    assert len(trace.chosen) == len(trace.seconds)
    assert trace.seconds[0] == pytest.approx(2 * table.means("seconds")[trace.chosen[0]])


def test_curves_are_written(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "curves"
    options = ("--metric", "val", "--cost", "seconds", "--strategies", "random,regularized-evolution")
    done = invoke(path, *options, "--queries", "30", "--seeds", "2", "--out", str(folder))
    assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader((folder / "regret.csv").open()))
    assert len(rows) == 60
    assert rows[29]["strategy"] == "random"
    regrets = [float(row["regret"]) for row in rows[:30]]
    assert regrets == sorted(regrets, reverse=True)
    assert float(rows[29]["metric"]) + regrets[-1] == pytest.approx(12.0)
    timed = list(csv.DictReader((folder / "regret_seconds.csv").open()))
    assert {row["strategy"] for row in timed} == {"random", "regularized-evolution"}
    pytest.importorskip("matplotlib")
    assert (folder / "regret.png").read_bytes().startswith(b"\x89PNG")


def test_processes_change_nothing(path: Path) -> None:
    bench = Bench(table=str(path), metric="val", queries=20)
    configs: dict[str, Any] = {"random": {}, "regularized-evolution": {"population": 5, "sample": 2}}
    assert run_all(bench, configs, 2, jobs=2) == run_all(bench, configs, 2, jobs=1)


def test_infeasible_rows_are_free(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "half.npz",
        ops=np.array([[i, j] for i in range(8) for j in range(8) if (i + j) % 2], np.uint8),
        candidates=json.dumps([list("abcdefgh")] * 2),
        val=np.arange(32.0),
    )
    trace = run_seed(Bench(table=str(tmp_path / "half.npz"), metric="val", queries=32), "random", {}, 1)
    assert len(trace.chosen) == 32
    assert trace.hit is not None
    assert trace.at(32) == 31


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strategies", "random"), "a bench needs an end: give --queries Q"),
        (("--strategies", "random", "--cost-budget", "10"), "counts the seconds of --cost"),
        (("--strategies", "randon", "--queries", "5"), "no strategy is named 'randon'; did you mean 'random'"),
        (("--strategies", "random", "--queries", "5", "--test-metric", "tset"), "no column 'tset'"),
        (("--strategies", "random", "--queries", "5", "--cost", "seconds*"), "is no cost"),
        (("--strategies", "random", "--queries", "5", "--config", "tpe.x=1"), "is for 'tpe', which is not among"),
        (("--strategies", "random", "--queries", "5", "--config", "random"), r"write STRATEGY.option=value"),
        (
            ("--strategies", "random", "--queries", "5", "--config", "random.speed=1"),
            "no such option of strategy 'random'",
        ),
        (("--strategies", "random", "--queries", "5", "--fidelity", "12"), "write NAME=COLUMN:COST"),
        (("--strategies", ",", "--queries", "5"), "--strategies names none"),
    ],
)
def test_mistakes_are_told_in_a_line(path: Path, options: tuple[str, ...], message: str) -> None:
    done = invoke(path, "--metric", "val", *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_are_yaml_and_may_be_nested() -> None:
    configs = read_configs(["a", "b"], ["a.x=3", "a.y.z=[1, 2]", "b.on=true"])
    assert configs == {"a": {"x": 3, "y": {"z": [1, 2]}}, "b": {"on": True}}


def test_mann_whitney() -> None:
    assert mann_whitney([1.0] * 5, [1.0] * 5) == 1.0
    assert mann_whitney([2.0, 3.0, 4.0] * 5, [1.0] * 15) < 1e-5
    assert mann_whitney([1.0] * 15, [2.0, 3.0, 4.0] * 5) > 0.999
    stats = pytest.importorskip("scipy.stats")
    xs, ys = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0], [2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 1.0]
    expected = stats.mannwhitneyu(xs, ys, alternative="greater", method="asymptotic").pvalue
    assert mann_whitney(xs, ys) == pytest.approx(expected)


def test_an_experiment_is_simulated_from_its_manifest(path: Path) -> None:
    experiment = NASExperiment.model_validate(
        {
            "apiVersion": "archsearch.dev/v1alpha1",
            "kind": "NASExperiment",
            "metadata": {"name": "sums"},
            "spec": {
                "modelSpace": {"python": {"class": "any:Net"}},
                "strategy": {"name": "random"},
                "evaluator": {"name": "tabular", "config": {"table": str(path), "metric": "val", "cost": "seconds"}},
                "objectives": [{"metric": "val", "target": "11"}],
                "budget": {"maxTrials": 256, "maxDurationSeconds": 100_000},
                "parallelTrials": 4,
            },
        }
    )
    result = simulate_experiment(experiment)
    assert result.end.reason == "GoalReached"
    assert result.best is not None
    assert result.best.metrics["val"] >= 11.0


@needs_tables
def test_the_benchmarks_protocol() -> None:
    """NAS-Bench-201's own: search on 12-epoch validation for 12,000 seconds of training (Dong and Yang 2020, 5)."""
    from archsearch.evaluate.table import find_space

    bench = Bench(
        table=str(Path(TABLES) / "nasbench201_cifar10.npz"),
        space=json.dumps(find_space("nasbench201").to_json()),
        metric="val12",
        test_metric="test200",
        cost="train_seconds_200*0.06",
        cost_budget=12_000,
    )
    table = bench.load()
    means = {}
    for name, config in {"random": {}, "regularized-evolution": {"population": 10, "sample": 3}}.items():
        traces = [run_seed(bench, name, config, seed) for seed in range(40)]
        found = summarize(bench, table, traces, None)["finalTest"]
        means[name] = sum(found) / len(found)
    assert 93.5 < means["random"] < 93.95
    assert 93.8 < means["regularized-evolution"] < 94.2


@needs_tables
@pytest.mark.parametrize(("population", "sample"), [(100, 25), (50, 12)])
def test_evolution_finds_the_optimum(population: int, sample: int) -> None:
    """A guard against getting worse, no measurement: thirty seeds tell the mean to some 10 queries.

    Over 1,000 seeds of a plain program of the same algorithm the means are 180 (P=100, S=25) and 152 (P=50, S=12).
    """
    from archsearch.evaluate.table import find_space

    bench = Bench(
        table=str(Path(TABLES) / "nasbench201_cifar10.npz"),
        space=json.dumps(find_space("nasbench201").to_json()),
        metric="val200",
        queries=700,
        to_optimum=True,
    )
    config = {"population": population, "sample": sample}
    traces = [run_seed(bench, "regularized-evolution", config, seed) for seed in range(30)]
    reached = summarize(bench, bench.load(), traces, None)["queriesToOptimum"]
    assert reached["share"] == 1.0
    assert reached["mean"] <= {100: 205, 50: 185}[population]


class Halving(Strategy[StrategyConfig]):
    """Eight architectures at the low fidelity, the best two of them at the full one."""

    async def search(self, run: Run) -> None:
        low = [Submission(run.space.at(17 * i), params={FIDELITY: 12}) for i in range(8)]
        best = sorted(await run.trials(low), key=lambda trial: -trial.score)[:2]
        await run.trials([Submission(trial.architecture, params={RESUMED: 12}) for trial in best])


@pytest.mark.parametrize("continued", [False, True])
def test_fidelities_are_charged_and_the_full_one_decides(
    path: Path, monkeypatch: pytest.MonkeyPatch, continued: bool
) -> None:
    monkeypatch.setattr(registry, "find", lambda group, name: Halving)
    fidelities = {"12": ("early", "seconds*0.1")}
    bench = Bench(
        table=str(path), metric="val", cost="seconds", fidelities=fidelities, continued=continued, cost_budget=10_000
    )
    trace = run_seed(bench, "halving", {}, 0)
    table = bench.load()
    rows = [17 * i for i in range(8)]
    early, val, seconds = (table.means(name) for name in ("early", "val", "seconds"))
    promoted = sorted(rows, key=lambda row: -early[row])[:2]
    assert len(trace.chosen) == 8  # a promoted row is no new one
    assert trace.chosen[-1] == max(promoted, key=lambda row: val[row])
    low = 0.1 * sum(seconds[row] for row in rows)
    full = sum(seconds[row] * (0.9 if continued else 1.0) for row in promoted)
    assert trace.seconds[-1] == pytest.approx(low)
    assert trace.total == pytest.approx(low + full)


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_a_stopping_rule_saves_tabulated_seconds(path: Path, rule: str) -> None:
    def run(**stopping: Any) -> Any:
        fidelities = {str(epochs): {"metric": "early", "cost": f"seconds*{epochs / 10}"} for epochs in (2, 4, 8)}
        config = {"table": str(path), "metric": "val", "cost": "seconds", "fidelities": fidelities, "continued": True}
        spec = {
            "modelSpace": {"python": {"class": "any:Net"}},
            "strategy": {"name": "random"},
            "evaluator": {"name": "tabular", "config": config},
            "objectives": [{"metric": "val"}],
            "budget": {"maxTrials": 100},
            "parallelTrials": 4,
            **stopping,
        }
        return simulate_experiment(NASExperiment.model_validate({"metadata": {"name": "sums"}, "spec": spec}))

    whole, stopped = run(), run(stopping={"name": rule, "config": {"grace": 4}})
    assert whole.table.counts[TrialState.PRUNED] == 0
    assert 15 < stopped.table.counts[TrialState.PRUNED] < 95
    assert stopped.table.gpu_seconds < 0.9 * whole.table.gpu_seconds
    assert stopped.best is not None and whole.best is not None
    assert stopped.best.metrics["val"] >= whole.best.metrics["val"] - 1.0
    assert all(row.metrics.keys() == {"val"} for row in stopped.table.rows.values() if row.state is TrialState.PRUNED)


def test_asha_and_hyperband_take_their_rungs_from_the_table(path: Path) -> None:
    full = ("--metric", "val", "--cost", "seconds", "--cost-budget", "2000", "--seeds", "2")
    found = results(
        path,
        *full,
        *("--fidelity", "12=early:seconds*0.1", "--fidelity", "200=val:seconds", "--strategies", "asha,hyperband"),
    )
    assert all(value >= 9.0 for name in found for value in found[name]["final"])
    done = invoke(path, *full, "--strategies", "asha")
    assert done.exit_code != 0
    assert "give maxFidelity" in done.stderr


@needs_tables
@pytest.mark.parametrize("name", ["asha", "hyperband"])
def test_fidelities_beat_random_at_equal_seconds(name: str) -> None:
    """Each fidelity is a training of its own there, so a promotion is charged in full."""
    from archsearch.evaluate.table import find_space

    bench = Bench(
        table=str(Path(TABLES) / "nasbench201_cifar10.npz"),
        space=json.dumps(find_space("nasbench201").to_json()),
        metric="val200",
        cost="train_seconds_200",
        fidelities={"12": ("val12", "train_seconds_200*0.06"), "200": ("val200", "train_seconds_200")},
        cost_budget=60_000,
    )
    table = bench.load()
    own, random = ([run_seed(bench, each, {}, seed) for seed in range(20)] for each in (name, "random"))
    assert summarize(bench, table, own, random)["p"] < 0.01
    assert all(trace.total <= 60_000 for trace in own)
