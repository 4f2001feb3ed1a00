"""`archsearch trials` and `best` over a ledger that was written record by record."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.bad_manifests import SOUND
from typer.testing import CliRunner

from archsearch.protocol import TrialKind, TrialState
from archsearch.spec.base import JsonObject
from archsearch.store import open_store
from archsearch_cli.main import app
from archsearch_strategies.driver import records as r
from archsearch_strategies.ledger import Ledger

METRICS = {1: {"accuracy": 0.8, "loss": 0.5}, 2: {"accuracy": 0.9, "loss": 0.9}, 3: {"accuracy": 0.7, "loss": 0.6}}


def write(folder: Path, spec: JsonObject) -> None:
    found: list[r.Record] = [r.Experiment(name="digits", spec=spec, digest="x", time=1.0)]
    for number, metrics in METRICS.items():
        found.append(
            r.Submitted(number=number, kind=TrialKind.EVALUATE, architecture={"op": f"c{number}"}, hash=str(number))
        )
        found.append(r.Result(number=number, attempt=1, state=TrialState.SUCCEEDED, metrics=metrics, time=2.0))
    found.append(r.Submitted(number=4, kind=TrialKind.EVALUATE, architecture={"op": "c4"}, hash="4"))
    found.append(r.Result(number=4, state=TrialState.FAILED, message="ValueError: no", time=3.0))
    found.append(r.Submitted(number=5, kind=TrialKind.EVALUATE, architecture={"op": "c5"}, hash="5"))

    async def append() -> None:
        ledger = await asyncio.to_thread(Ledger.open, open_store(str(folder)), "test")
        await asyncio.gather(*(ledger.append(record.to_json()) for record in found))
        await asyncio.to_thread(ledger.close)

    asyncio.run(append())


def show(*arguments: Any) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, [*(str(each) for each in arguments), "-o", "json"])
    assert done.exit_code == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_trials_by_number_with_all_states(tmp_path: Path) -> None:
    write(tmp_path, SOUND["spec"])
    rows = show("trials", tmp_path)
    assert [(row["number"], row["state"]) for row in rows] == [
        (1, "succeeded"),
        (2, "succeeded"),
        (3, "succeeded"),
        (4, "failed"),
        (5, "pending"),
    ]
    assert rows[0]["kind"] == "evaluate"
    assert rows[0]["architecture"] == {"op": "c1"}
    assert rows[0]["metrics"] == METRICS[1]
    assert rows[3]["message"] == "ValueError: no"
    table = CliRunner().invoke(app, ["trials", str(tmp_path)]).stdout.splitlines()
    assert table[0].split()[:5] == ["NUMBER", "KIND", "STATE", "ACCURACY", "LOSS"]
    assert len(table) == 6


def test_a_control_is_named_where_people_read(tmp_path: Path) -> None:
    found = [
        r.Experiment(name="digits", spec=SOUND["spec"], digest="x", time=1.0),
        r.Submitted(number=1, kind=TrialKind.EVALUATE, architecture={"op": "c1"}, hash="1"),
        r.Added(number=2, of=1, architecture={"op": "c1"}, hash="1"),
        r.Added(number=3, of=1, control=True, architecture={"op": "c2"}, hash="2"),
    ]

    async def append() -> None:
        ledger = await asyncio.to_thread(Ledger.open, open_store(str(tmp_path)), "test")
        await asyncio.gather(*(ledger.append(record.to_json()) for record in found))
        await asyncio.to_thread(ledger.close)

    asyncio.run(append())
    table = CliRunner().invoke(app, ["trials", str(tmp_path)]).stdout
    assert ["(control)" in line for line in table.splitlines()[1:]] == [False, False, True]
    assert [row["kind"] for row in show("trials", tmp_path)] == ["evaluate", "retrain", "retrain"]


def test_best_first_and_no_more_than_asked(tmp_path: Path) -> None:
    write(tmp_path, SOUND["spec"])
    assert [row["number"] for row in show("best", tmp_path)] == [2, 1, 3]
    assert [row["number"] for row in show("best", f"file://{tmp_path}", "--top", 1)] == [2]


def test_smaller_can_be_better(tmp_path: Path) -> None:
    write(tmp_path, {**SOUND["spec"], "objectives": [{"metric": "loss", "goal": "Minimize"}]})
    assert [row["number"] for row in show("best", tmp_path)] == [1, 3, 2]


def test_of_several_objectives_those_that_none_beats(tmp_path: Path) -> None:
    objectives = [{"metric": "accuracy"}, {"metric": "loss", "goal": "Minimize"}]
    write(tmp_path, {**SOUND["spec"], "objectives": objectives})
    rows = show("best", tmp_path)
    assert [row["number"] for row in rows] == [2, 1]
    assert rows[0]["objectives"] == {"accuracy": 0.9, "loss": 0.9}


@pytest.mark.parametrize("place", ["http://x/y", "s3://", "s3://Bad_Bucket/x"])
def test_a_place_that_is_none(place: str) -> None:
    done = CliRunner().invoke(app, ["best", place])
    assert done.exit_code == 2
    assert "storage URI" in done.stderr


def test_more_training_stands_before_a_better_value(tmp_path: Path) -> None:
    def finished(number: int, digest: str, params: JsonObject, accuracy: float) -> list[r.Record]:
        return [
            r.Submitted(number=number, kind=TrialKind.EVALUATE, hash=digest, params=params),
            r.Result(number=number, state=TrialState.SUCCEEDED, metrics={"accuracy": accuracy}, time=1.0),
        ]

    found: list[r.Record] = [r.Experiment(name="digits", spec=SOUND["spec"], digest="x", time=1.0)]
    found += finished(1, "a", {"fidelity": 3}, 0.9) + finished(2, "b", {"fidelity": 3}, 0.8)
    found += finished(3, "a", {"fidelity": 9, "resumedFidelity": 3, "checkpointOf": 1}, 0.7)

    async def append() -> None:
        ledger = await asyncio.to_thread(Ledger.open, open_store(str(tmp_path)), "test")
        await asyncio.gather(*(ledger.append(record.to_json()) for record in found))
        await asyncio.to_thread(ledger.close)

    asyncio.run(append())
    assert [(row["number"], row["fidelity"]) for row in show("best", tmp_path)] == [(3, 9.0), (2, 3.0)]
    table = CliRunner().invoke(app, ["trials", str(tmp_path)]).stdout
    assert table.splitlines()[0].split()[:4] == ["NUMBER", "KIND", "STATE", "FIDELITY"]
