"""`archsearch run`: how its end becomes an exit code, and one real run that is interrupted and resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.bad_manifests import SOUND
from typer.testing import CliRunner, Result

from archsearch_cli.main import app
from archsearch_strategies.driver import local
from archsearch_strategies.driver.summary import Summary, TrialSummary

BEST = [TrialSummary(number=3, kind="evaluate", state="succeeded", architecture={"op": "a"}, metrics={"accuracy": 0.9})]
# After some trials one waits to be told to go, until the file is there.
CODE = """
import time
from pathlib import Path
from torch import nn
from archsearch.nn import LayerChoice
from archsearch.trial.context import TrialReleased
GATE = Path(__file__).with_name("open")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = LayerChoice({str(i): nn.Linear(2, i) for i in range(1, 60)}, label="body")
    def forward(self, x):
        return self.body(x)
def width(model, context):
    while context.assignment.number > 3 and not GATE.exists():
        if context.should_release:
            raise TrialReleased
        time.sleep(0.02)
    return {"width": float(sum(p.shape[0] for p in model.parameters() if p.dim() == 1))}
"""
OWN = {
    **SOUND,
    "metadata": {"name": "own"},
    "spec": {
        "objectives": [{"metric": "width"}],
        "modelSpace": {"python": {"class": "own_space:Net", "inputShape": [2]}},
        "strategy": {"name": "random"},
        "evaluator": {"python": "own_space:width"},
        "budget": {"maxTrials": 12},
    },
}


def _run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, summary: dict[str, Any], *arguments: str
) -> tuple[Result, Any]:
    seen: dict[str, Any] = {}

    async def run_local(experiment: Any, **options: Any) -> Summary:
        seen.update(options, experiment=experiment)
        return Summary.model_validate({"name": "digits", "reason": "MaxTrialsReached", "best": BEST, **summary})

    monkeypatch.setattr(local, "run_local", run_local)
    path = tmp_path / "digits.yaml"
    path.write_text(yaml.safe_dump(SOUND))
    return CliRunner().invoke(app, ["run", str(path), *arguments]), seen


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        ({"state": "Succeeded"}, 0),
        ({"state": "Suspended"}, 0),
        ({"state": "Failed", "reason": "TooManyFailedTrials"}, 1),
        ({"state": "Failed", "reason": "SpecInvalid", "message": "spec.modelSpace: no class"}, 2),
        ({"state": "Stopped"}, 130),
    ],
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, summary: dict[str, Any], code: int) -> None:
    done, _ = _run(monkeypatch, tmp_path, summary)
    assert done.exit_code == code
    assert summary["state"] in done.stderr
    assert summary.get("message", "") in done.stderr


def test_the_result_alone_is_on_stdout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done, seen = _run(
        monkeypatch, tmp_path, {"state": "Succeeded", "model": "best"}, "-o", "json", "--storage", "/x/run"
    )
    assert json.loads(done.stdout)["best"][0]["number"] == 3
    assert "/x/run/best" in done.stderr
    assert seen["uri"] == "/x/run"
    assert seen["code_dir"] == tmp_path
    done, seen = _run(monkeypatch, tmp_path, {"state": "Succeeded"}, "--set", "spec.seed=7")
    assert done.stdout.splitlines()[1].split() == ["3", "0.9", '{"op":"a"}']
    assert seen["uri"] == "archsearch-runs/digits"
    assert seen["experiment"].spec.seed == 7
    assert "spec.storage.uri is the cluster's" in done.stderr


def test_the_model_that_one_gets_is_told_beside_random_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def trial(number: int, accuracy: float) -> TrialSummary:
        return TrialSummary(number=number, kind="retrain", state="succeeded", metrics={"accuracy": accuracy})

    summary = {"state": "Succeeded", "model": "best", "modelTrial": 7}
    more = {"retrained": [trial(7, 0.91)], "controls": [trial(8, 0.85)]}
    done, _ = _run(monkeypatch, tmp_path, {**summary, **more})
    told = (
        "of trial 7, trained after the search: accuracy 0.91; random architectures of its size: trial 8: accuracy 0.85"
    )
    assert told in done.stderr
    assert "archsearch.load('archsearch-runs/digits')" in done.stderr
    done, _ = _run(monkeypatch, tmp_path, {**summary, "modelTrial": 3})
    assert "of trial 3: accuracy 0.9\n" in done.stderr


def test_a_bad_file_never_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done, seen = _run(monkeypatch, tmp_path, {"state": "Succeeded"}, "--set", "spec.strategy.config.sample=90")
    assert done.exit_code == 2
    assert "sample is 90, more than population 20" in done.stderr
    assert seen == {}


def test_interrupted_and_resumed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "own_space.py").write_text(CODE)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(OWN))
    command = [sys.executable, "-m", "archsearch_cli.main", "run", "own.yaml", "-o", "json"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    first = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert first.stderr is not None
    try:
        for line in first.stderr:
            if re.match(r"trials [1-9]", line):
                break
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=120)
    finally:
        first.kill()
    assert first.returncode == 130, err
    assert json.loads(out)["state"] == "Stopped"
    assert "Traceback" not in err
    (tmp_path / "open").touch()
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert second.returncode == 0, second.stderr
    summary = json.loads(second.stdout)
    assert summary["state"] == "Succeeded"
    assert summary["trials"]["succeeded"] == 12
    assert (tmp_path / "archsearch-runs" / "own" / "summary.json").is_file()
