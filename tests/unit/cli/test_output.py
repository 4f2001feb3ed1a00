"""The forms of a result."""

from __future__ import annotations

import csv
import io
import json

import pytest
import yaml

from archsearch_cli.output import Format, emit, show

ROWS = [
    {"number": 1, "metrics": {"accuracy": 0.123456789}, "architecture": {"a": "[x]"}, "message": None},
    {"number": 2, "metrics": {"loss": 1.0}, "architecture": {"a": "y"}, "message": "a, b"},
]


def test_json_and_yaml_hold_everything(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format.JSON, ["number"])
    assert json.loads(capsys.readouterr().out) == ROWS
    emit(ROWS, Format.YAML, ["number"])
    assert yaml.safe_load(capsys.readouterr().out) == ROWS


def test_csv_has_a_column_for_each_metric_and_exact_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format.CSV)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["metrics.accuracy"] == "0.123456789"
    assert rows[0]["metrics.loss"] == ""
    assert json.loads(rows[1]["architecture"]) == {"a": "y"}
    assert rows[1]["message"] == "a, b"


def test_a_table_in_a_pipe_keeps_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format.TABLE, ["number", "metrics.accuracy", "architecture"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["NUMBER", "ACCURACY", "ARCHITECTURE"]
    assert said[1].split() == ["1", "0.123457", '{"a":"[x]"}']
    assert len(said) == 3


def test_an_object_is_a_table_of_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"state": "Succeeded"}, Format.TABLE)
    assert capsys.readouterr().out.splitlines()[1].split() == ["state", "Succeeded"]


def test_nothing_leaves_stdout_empty(capsys: pytest.CaptureFixture[str]) -> None:
    emit([], Format.TABLE)
    said = capsys.readouterr()
    assert said.out == ""
    assert "nothing to show" in said.err


def test_cells() -> None:
    assert [show(value) for value in (None, "x", 1.0, 1e-9, True, [1, 2])] == ["", "x", "1", "1e-09", "true", "[1,2]"]
