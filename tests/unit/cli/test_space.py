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
    done = archsearch("space", "nasbench201", "--arg", "channels=4", "--arg", "cells=1", "-o", "json")
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
    assert archsearch("space", f"{module}:Net").stdout.splitlines() == [
        "1 choice, 2 architectures",
        "└─ body: one of a, b",
    ]
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


PLAIN = """
from torch import nn
class Plain(nn.Sequential):
    def __init__(self, width=4):
        super().__init__(nn.Conv2d(1, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Flatten())
"""
MUTATE = [
    {"type": "torch.nn.ReLU", "label": "act", "replace": {"candidates": {"relu": "keep", "silu": "torch.nn.SiLU"}}},
    {
        "match": "2",
        "values": {"k": [1, 3]},
        "replace": {
            "candidates": {"keep": "keep", "wide": {"change": {"kernel_size": "$k", "padding": "$k // 2"}}},
        },
    },
]


@pytest.fixture
def manifest(module: str, tmp_path: Path) -> Path:
    (tmp_path / f"{module}.py").write_text(PLAIN)
    document = json.loads(json.dumps(SOUND))
    document["spec"]["modelSpace"] = {"python": {"class": f"{module}:Plain"}, "mutate": MUTATE}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "plain.yaml"


def test_a_mutated_network_as_a_tree_and_as_documents(manifest: Path) -> None:
    done = archsearch("space", manifest)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [
        "3 choices, 6 architectures",
        "├─ act: one of relu, silu  [shared by 1, 3]",
        "└─ 2: one of keep, wide",
        "   └─ wide → 2.wide.kernel_size: value 1, 3  [also at 2.wide.padding]",
    ]
    document = json.loads(archsearch("space", manifest, "--arg", "width=2", "-o", "json").stdout)
    assert SearchSpace.from_json(document).size() == 6
    assert archsearch("space", manifest, "-o", "csv").stdout.splitlines()[1].startswith("act,categorical,")
    assert [row["size"] for row in json.loads(archsearch("space", manifest, "--size", "-o", "json").stdout)] == [6]


def test_a_wrong_mutation_names_place_and_remedy(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("torch.nn.SiLU", "torch.nn.Silu"))
    done = archsearch("space", manifest)
    assert done.exit_code == 2
    assert "modelSpace.mutate[0] (replace type torch.nn.ReLU): 1: torch.nn has no 'Silu'" in done.stderr
    assert "did you mean torch.nn.SiLU?" in done.stderr


@pytest.mark.parametrize("pair", ["channels", "=8"])
def test_an_argument_without_name_or_value(pair: str) -> None:
    done = archsearch("space", "nasbench201", "--arg", pair)
    assert done.exit_code == 2
    assert f"--arg {pair!r} is no NAME=VALUE; write for example --arg channels=8" in done.stderr


def test_the_tree_of_a_large_space_with_conditions_on_several_choices() -> None:
    from archsearch.space import Categorical, Constraint, Ordinal, Subset, Term
    from archsearch_cli.space_tree import tree_lines

    names = tuple(f"op{i}" for i in range(20))
    either = ((Term("a", ("op1",)), Term("b", (1, 2))), (Term("b", (3,)),))
    choices = [
        Categorical("a", names),
        Ordinal("b", (1, 2, 3)),
        Subset("c", tuple(range(40)), 2, when=either),
        Subset("d", ("x", "y"), None, when=((Term("c", (0,)),),)),
    ]
    lines = list(tree_lines(SearchSpace(choices, constraints=[Constraint.count("few", [Term("b", (3,))], most=1)])))
    assert lines[0].startswith("4 choices, ")
    assert lines[1] == "constraint few"
    assert lines[2] == "├─ a: one of " + ", ".join(names[:12]) + ", … 8 more"
    assert lines[3] == "└─ b: value 1, 2, 3"
    assert lines[4].startswith("   └─ a op1 and 1 | 2 or 3 → c: 2 of 0, 1, 2")
    assert lines[5] == "      └─ 0 → d: any of x, y"
