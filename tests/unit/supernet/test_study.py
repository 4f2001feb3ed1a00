"""A small case of the study of one-shot strategies: searched, trained again beside a control, tabulated."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

STUDY = Path(__file__).parents[3] / "benchmarks" / "oneshot_study.py"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The command's module, its cells' searches made tiny."""
    spec = importlib.util.spec_from_file_location("oneshot_study", STUDY)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "oneshot_study", found)
    spec.loader.exec_module(found)
    data = {"dataset": "digits", "trainSize": 96, "validationSize": 32, "epochs": 1, "batchSize": 32}
    monkeypatch.setattr(found, "DATA", data)
    monkeypatch.setattr(found, "POOL", 2)
    monkeypatch.setitem(found.CELLS, "gdas", {"epochs": 2, "batchSize": 32})
    return found


def test_a_case_is_searched_once_and_tabulated(study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case, controls = study.cases("cells", ["gdas"], 1)
    searches = study.Searches()
    searches.stop()
    study.run(case, tmp_path, searches)  # told to stop before: nothing begins
    assert list(tmp_path.iterdir()) == []
    study.run(case, tmp_path, study.Searches())
    result = tmp_path / "cells-gdas-0.json"
    written = result.stat().st_mtime_ns
    found = json.loads(result.read_text())
    assert found["params"] == found["best"][0]["metrics"]["params"]  # the supernet is as wide as what it is for
    study.run(case, tmp_path, study.Searches())
    assert result.stat().st_mtime_ns == written
    study.run(controls, tmp_path, study.Searches())
    study.table(tmp_path, "")
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| cells: gdas | 1 |")]
    assert "nan" not in row
    assert row.count(" %") == 3


def test_strategies_of_a_space_share_their_controls(study: Any) -> None:
    found = study.cases("all", [], 3)
    pools = {case.name for case in found if case.group == "control"}
    searches = [case for case in found if case.group in ("own", "cells")]
    assert {case.trained_as for case in searches} == pools
    assert len(pools) < len({(case.group, case.name) for case in searches}) / 2
    for pool in pools:
        (one,) = [case for case in found if case.group == "control" and case.name == pool and case.seed == 1]
        spec, same = one.manifest()["spec"], next(case for case in searches if case.trained_as == pool)
        assert spec["seed"] == 1
        assert (spec["modelSpace"], spec["evaluator"]) == tuple(
            same.manifest()["spec"][key] for key in ("modelSpace", "evaluator")
        )


def test_a_result_stands_beside_random_ones_of_its_size(study: Any) -> None:
    pool = [(float(size), size / 100) for size in (10, 20, 30, 40, 90)]
    assert sorted(study.alike({"params": 28}, pool)) == [0.2, 0.3, 0.4]


def test_kendalls_tau_counts_pairs_in_the_same_order(study: Any) -> None:
    def rows(kind: str, values: list[float]) -> list[dict[str, Any]]:
        return [
            {"kind": kind, "state": "succeeded", "architecture": {"a": i}, "metrics": {"accuracy": value}}
            for i, value in enumerate(values)
        ]

    result = {"retrained": rows("retrain", [0.1, 0.2, 0.3]), "trials": rows("inherit", [0.5, 0.7, 0.6])}
    assert study.tau(study.inherited(result), study.alone(result)) == pytest.approx(1 / 3)
