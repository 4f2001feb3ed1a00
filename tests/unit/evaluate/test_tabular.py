"""The evaluator `tabular` and the tables that it reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archsearch.errors import UserError
from archsearch.evaluate import kinds
from archsearch.evaluate.table import Cost, Table, find_space
from archsearch.evaluate.tabular import FIDELITY, RESUMED, SECONDS, Tabular, TabularConfig
from archsearch.protocol import Assignment, TrialKind
from archsearch.registry import find
from archsearch.space.known import known_space
from archsearch.spec.problems import SpecError
from archsearch.trial.context import Infeasible, TrialContext

CANDIDATES = [["a", "b", "c"], ["x", "y"]]
OPS = [[i, j] for i in range(3) for j in range(2)][:5]  # c, y is missing


def save(path: Path, **arrays: Any) -> Path:
    content: dict[str, Any] = {
        "ops": np.array(OPS, np.uint8),
        "candidates": json.dumps(CANDIDATES),
        "accuracy": np.array([10.0, 20.0, 30.0, 40.0, np.nan]),
        "short": np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
        "seeds": np.array([[1.0, 3.0], [5.0, np.nan], [7.0, 9.0], [0.0, 0.0], [np.nan, np.nan]]),
        "time": np.array([100.0, 200.0, 300.0, 400.0, 500.0]),
    }
    content |= arrays
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return path


def tabular(path: Path, **options: Any) -> Tabular:
    return Tabular(TabularConfig(table=str(path), metric=options.pop("metric", "accuracy"), **options))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(tmp_path / "table.npz")


def test_answers_with_metric_and_cost(path: Path) -> None:
    found = tabular(path, cost="time*0.06", also=["short"]).answer({"op0": "b", "op1": "y"})
    assert found.metrics == {"accuracy": 40.0, "short": 4.0, SECONDS: pytest.approx(24.0)}
    assert found.seconds == pytest.approx(24.0)
    assert found.row == 3


def test_declares_what_it_reports() -> None:
    config = TabularConfig(table="t.npz", metric="val", also=["size"], cost="time")
    assert Tabular.metrics(config) == ("val", "size", SECONDS)
    assert Tabular.metrics(TabularConfig(table="t.npz", metric="val")) == ("val",)
    assert find("archsearch.evaluators", "tabular") is Tabular


def test_missing_rows_and_values_are_infeasible_and_say_so(path: Path) -> None:
    with pytest.raises(Infeasible, match=r"no row for the architecture .*'c'"):
        tabular(path).answer({"op0": "c", "op1": "y"})
    with pytest.raises(Infeasible, match="no 'accuracy' of the architecture in row 4"):
        tabular(path).answer({"op0": "c", "op1": "x"})


def test_seeds_are_averaged_or_drawn_by_the_trials_seed(path: Path) -> None:
    first, second = {"op0": "a", "op1": "x"}, {"op0": "a", "op1": "y"}
    assert tabular(path, metric="seeds").answer(first, seed=1).metrics == {"seeds": 2.0}
    drawn = tabular(path, metric="seeds", seeds="draw")
    assert [drawn.answer(first, seed=seed).metrics["seeds"] for seed in range(4)] == [1.0, 3.0, 1.0, 3.0]
    assert {drawn.answer(second, seed=seed).metrics["seeds"] for seed in range(4)} == {5.0}


def test_a_fidelity_answers_under_the_same_name(path: Path) -> None:
    fidelities = {"12": {"metric": "short", "cost": "time*0.06"}, "200": {"metric": "accuracy", "cost": "time"}}
    b = {"op0": "b", "op1": "x"}
    own = tabular(path, cost="time", fidelities=fidelities)
    assert own.answer(b, {FIDELITY: 12}).metrics == {"accuracy": 3.0, SECONDS: pytest.approx(18.0)}
    assert own.answer(b, {FIDELITY: "12"}) == own.answer(b, {FIDELITY: 12.0})
    assert own.answer(b, {FIDELITY: 200, RESUMED: 12}).seconds == 300.0  # trainings of their own
    continued = tabular(path, cost="time", fidelities=fidelities, continued=True)
    assert continued.answer(b, {FIDELITY: 200, RESUMED: 12}).seconds == pytest.approx(282.0)
    assert continued.answer(b, {FIDELITY: 200}).seconds == 300.0
    with pytest.raises(UserError, match=r"the fidelity 50; evaluator.config.fidelities has 12, 200"):
        own.answer(b, {FIDELITY: 50})


def test_a_continued_training_tells_of_the_points_on_its_way(path: Path) -> None:
    fidelities = {
        "4": {"metric": "seeds", "cost": "time*0.02"},
        "12": {"metric": "short", "cost": "time*0.06"},
        "200": {"metric": "accuracy", "cost": "time"},
    }
    options: dict[str, Any] = {"cost": "time", "fidelities": fidelities}
    continued = tabular(path, continued=True, **options)
    b = {"op0": "b", "op1": "x"}
    assert Tabular.fidelities(continued.config) == (4, 12, 200)
    found = [
        (point.fidelity, point.metrics["accuracy"], point.seconds) for point in continued.curve(b, {FIDELITY: 200})
    ]
    assert found == [(4, 8.0, pytest.approx(6.0)), (12, 3.0, pytest.approx(18.0))]
    resumed = continued.curve(b, {FIDELITY: 200, RESUMED: 4})
    assert [(point.fidelity, point.seconds) for point in resumed] == [(12, pytest.approx(12.0))]
    assert [point.fidelity for point in continued.curve(b)] == [4, 12, 200]
    assert continued.curve(b, {FIDELITY: 4}) == []
    assert [point.fidelity for point in continued.curve({"op0": "c", "op1": "x"}, {FIDELITY: 200})] == [12]  # NaN
    assert continued.curve({"op0": "c", "op1": "y"}) == []
    assert tabular(path, **options).curve(b) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("time", Cost("time")), ("time*0.06", Cost("time", 0.06)), (" time * 1e-3 ", Cost("time", 1e-3))],
)
def test_cost_is_a_column_times_a_factor(text: str, expected: Cost) -> None:
    assert Cost.parse(text) == expected


@pytest.mark.parametrize("text", ["time*", "time*x", "time*0", "a*b*c", "time*-2", ""])
def test_a_bad_cost_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cost"):
        Cost.parse(text)
    if text:
        with pytest.raises(SpecError, match=r"spec\.evaluator\.config\.cost"):
            Tabular.configure({"table": "t.npz", "metric": "m", "cost": text})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ops": None}, "needs an array ops"),
        ({"candidates": None}, "has no candidates"),
        ({"candidates": "nonsense"}, "candidates is no JSON text"),
        ({"candidates": json.dumps([["a"]])}, "candidates must be 2 lists"),
        ({"ops": np.array([*OPS[:4], [2, 2]])}, "column 1 of ops has indices 0 to 2, for 2 candidates"),
        ({"ops": np.array([*OPS[:4], OPS[0]])}, "the architecture of row 0 stands in several rows"),
        ({"ops": np.array(OPS, np.float64)}, "rows? of integers"),
    ],
)
def test_a_bad_table_says_what_is_wrong(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Table.load(save(tmp_path / "bad.npz", **arrays))


def test_unreadable_files_and_unknown_columns(tmp_path: Path, path: Path) -> None:
    with pytest.raises(UserError, match="there is no table"):
        Table.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match="cannot be read as an npz"):
        Table.load(tmp_path / "text.npz")
    with pytest.raises(UserError, match="no column 'top5'; it has accuracy, seeds, short, time"):
        tabular(path, metric="top5").answer({"op0": "a", "op1": "x"})
    with pytest.raises(UserError, match="name the space's own by `space` or `choices`"):
        tabular(path).answer({"edge": "a"})


def test_choices_may_be_named_and_a_matrix_has_named_columns(tmp_path: Path) -> None:
    path = save(tmp_path / "t.npz", values=np.arange(10.0).reshape(5, 2), columns=np.array(["pi", "phone"]))
    found = tabular(path, metric="phone", choices=["first", "second"])
    assert found.answer({"second": "x", "first": "b"}).metrics == {"phone": 5.0}
    assert [choice.name for choice in found.table.space.choices] == ["first", "second"]
    assert found.table.architecture(2) == {"first": "b", "second": "x"}


def test_the_zoo_space_orders_the_columns(tmp_path: Path) -> None:
    ops = np.array([[0, 1, 2, 3, 4, 0], [3, 3, 3, 1, 3, 2]], np.uint8)
    np.savez(tmp_path / "cells.npz", ops=ops, val=np.array([1.0, 2.0]))
    found = tabular(tmp_path / "cells.npz", metric="val", space="nasbench201")
    assert found.table.architecture(0) == {
        "edge_0_1": "none",
        "edge_0_2": "skip_connect",
        "edge_1_2": "nor_conv_1x1",
        "edge_0_3": "nor_conv_3x3",
        "edge_1_3": "avg_pool_3x3",
        "edge_2_3": "none",
    }
    assert found.answer(found.table.architecture(1)).metrics == {"val": 2.0}


def test_known_space_is_the_networks_own() -> None:
    from archsearch.nn import describe
    from archsearch.zoo.nasbench201 import NASBench201

    known = known_space("nasbench201")
    assert known is not None
    network = describe(NASBench201(channels=1, cells=1))
    assert [(c.name, c.options) for c in known.choices] == [(c.name, c.options) for c in network.choices]
    assert known.canonicaliser == network.canonicaliser
    with pytest.raises(UserError, match="no search space is named 'nasbench999'"):
        find_space("nasbench999")


def test_a_trial_needs_no_network_and_is_charged_the_tables_seconds(path: Path, tmp_path: Path) -> None:
    assignment = Assignment.model_validate(
        {
            "experiment": "e",
            "kind": TrialKind.EVALUATE,
            "number": 1,
            "folder": "trials/1",
            "modelSpace": {"zoo": {"name": "nasbench201"}},
            "evaluator": {"name": "tabular", "config": {"table": str(path), "metric": "accuracy", "cost": "time*0.5"}},
            "objectives": [{"metric": "accuracy"}],
            "architecture": {"op0": "a", "op1": "y"},
            "storage": {"uri": ""},
        }
    )
    context = TrialContext(assignment, tmp_path / "trial")
    assert kinds.run_kind(context).metrics == {"accuracy": 20.0, SECONDS: 100.0}
    assert context.charged_seconds == 100.0
    export = assignment.model_copy(update={"kind": TrialKind.EXPORT})
    with pytest.raises(UserError, match="trains no network, so there are no weights to export"):
        kinds.run_kind(TrialContext(export, tmp_path / "export"))


def test_answers_without_torch(path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from archsearch.evaluate.tabular import Tabular, TabularConfig\n"
        f"found = Tabular(TabularConfig(table={str(path)!r}, metric='accuracy'))\n"
        "print(found.answer({'op0': 'b', 'op1': 'x'}).metrics['accuracy'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("30.0", "")
