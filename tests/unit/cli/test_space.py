"""`archsearch space` runs model code, so these need torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from support.bad_manifests import SOUND
from typer.testing import CliRunner, Result

from archsearch.space import SearchSpace
from archsearch_cli.main import app

pytest.importorskip("torch")

CODE = """
from torch import nn
from archsearch.nn import LayerChoice
class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.body = LayerChoice({"a": nn.Linear(width, width), "b": nn.Identity()}, label="body")
    def forward(self, x):
        return self.body(x)
"""


def archsearch(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"space_of_a_user_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_the_zoo_by_name() -> None:
    done = archsearch("space", "nasbench201", "--args", "{channels: 4, cells: 1}", "-o", "json")
    assert done.exit_code == 0, done.stderr
    assert SearchSpace.from_json(json.loads(done.stdout)).size() == 15625
    assert archsearch("space", "nasbench201", "--size", "-o", "json").stdout.split() == [
        "[",
        "{",
        '"size":',
        "15625",
        "}",
        "]",
    ]


def test_a_class_of_ones_own_and_a_manifest_beside_it(module: str, tmp_path: Path) -> None:
    direct = archsearch("space", f"{module}:Net", "-o", "json")
    assert direct.exit_code == 0, direct.stderr
    document = json.loads(json.dumps(SOUND))
    document["spec"]["modelSpace"] = {"python": {"class": f"{module}:Net", "args": {"width": 2}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(document))
    assert json.loads(archsearch("space", tmp_path / "own.yaml", "-o", "json").stdout) == json.loads(direct.stdout)
    table = archsearch("space", f"{module}:Net").stdout
    assert "body" in table
    nni = json.loads(archsearch("space", f"{module}:Net", "--nni").stdout)
    assert nni["body"]["_type"] == "layer_choice"


@pytest.mark.parametrize(
    ("target", "said"),
    [("{module}:Nat", "Nat"), ("no_such_module:Net", "no_such_module"), ("{module}:nn", "nn")],
)
def test_what_is_no_model_is_bad_input(module: str, target: str, said: str) -> None:
    done = archsearch("space", target.format(module=module))
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.exception is None or isinstance(done.exception, SystemExit)
