"""The command line as a user meets it: exit codes, results alone on stdout, no traceback for a mistake, fast."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.bad_manifests import SOUND
from typer.testing import CliRunner, Result

from archsearch.errors import StoreUnavailable
from archsearch_cli import main as cli
from archsearch_cli import strategies as strategies_command


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "digits.yaml"
    path.write_text(yaml.safe_dump(SOUND))
    return path


def archsearch(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(each) for each in arguments])


def test_help_imports_neither_torch_nor_clients() -> None:
    code = (
        "import sys; from archsearch_cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'boto3', 'botocore', 'kubernetes', 'kopf', 'aiohttp', 'numpy', 'pydantic', 'rich.live'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in ("run", "validate", "space", "strategies", "trials", "best"):
        assert f"  {command} " in done.stdout


def test_version() -> None:
    done = archsearch("--version")
    assert done.exit_code == 0
    assert done.stdout.startswith("archsearch 0.")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run"], ["validate", "x", "-o", "xml"], ["best", "x", "--top", "0"]]
)
def test_usage_errors_are_bad_input(arguments: list[str]) -> None:
    assert archsearch(*arguments).exit_code == 2


def test_validate_says_yes_on_stdout(sound: Path) -> None:
    done = archsearch("validate", sound)
    assert done.exit_code == 0
    assert "yes" in done.stdout
    assert done.stderr == ""
    done = archsearch("validate", sound, "-o", "json")
    assert json.loads(done.stdout) == []


def test_validate_lists_problems_as_data(sound: Path) -> None:
    done = archsearch(
        "validate", sound, "--set", "spec.seed=-1", "--set", "spec.strategy.config.sample=50", "-o", "json"
    )
    assert done.exit_code == 2
    found = {each["path"]: each for each in json.loads(done.stdout)}
    assert found["spec.seed"]["value"] == -1
    assert "more than population 20" in found["spec.strategy.config"]["message"]
    assert "2 problems" in done.stderr


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    for command in ("run", "validate", "space"):
        done = archsearch(command, tmp_path / "nowhere.yaml")
        assert done.exit_code == 2, done.output
        assert "cannot be read" in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize(("error", "code"), [(StoreUnavailable("the store sleeps"), 1), (KeyboardInterrupt(), 130)])
def test_exit_codes_of_what_ends_a_command(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    def fail(*_: Any) -> int:
        raise error

    monkeypatch.setattr(strategies_command, "show_strategies", fail)
    done = archsearch("strategies")
    assert done.exit_code == code
    assert (str(error) or "interrupted") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(strategies_command, "show_strategies", fail)
    assert isinstance(archsearch("strategies").exception, ZeroDivisionError)


def test_strategies_tell_defaults_and_bounds() -> None:
    listed = json.loads(archsearch("strategies", "-o", "json").stdout)
    by_name = {each["name"]: each for each in listed}
    assert {"random", "regularized-evolution"} <= by_name.keys()
    evolution = by_name["regularized-evolution"]
    assert evolution["objectives"] == "one"
    options = {option["name"]: option for option in evolution["options"]}
    assert options["population"]["default"] == 100
    assert options["population"]["bounds"].startswith(">= 2")
    assert options["sample"]["description"]
    table = archsearch("strategies", "regularized-evolution").stdout
    assert "population" in table
    assert not any(line.startswith("random") for line in table.splitlines())
    rows = list(csv.DictReader(io.StringIO(archsearch("strategies", "-o", "csv").stdout)))
    assert {row["option"] for row in rows} >= {"population", "sample"}


def test_an_unknown_strategy_is_suggested() -> None:
    done = archsearch("strategies", "randm")
    assert done.exit_code == 2
    assert "did you mean 'random'?" in done.stderr


def test_space_lists_the_zoo() -> None:
    assert {"space": "nasbench201"} in json.loads(archsearch("space", "-o", "json").stdout)


def test_space_of_an_unknown_name() -> None:
    done = archsearch("space", "nasbench")
    assert done.exit_code == 2
    assert "did you mean 'nasbench201'?" in done.stderr


def test_no_run_there(tmp_path: Path) -> None:
    for command in ("trials", "best"):
        done = archsearch(command, tmp_path)
        assert done.exit_code == 2
        assert "holds no run of archsearch" in done.stderr
        assert done.stdout == ""
