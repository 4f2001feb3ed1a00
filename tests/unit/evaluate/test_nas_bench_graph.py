"""Tables of the package nas-bench-graph: with a small stand-in for it, and with the real one where it is installed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from archsearch.errors import UserError
from archsearch.evaluate.nas_bench_graph import graph_table, graphs
from archsearch.evaluate.table import Table, write_table
from archsearch.space import Rng
from archsearch_cli.main import app

# Two shapes (a star and a chain), two operations; in the star the order of the operations makes no difference.
STAND_IN = """
link_list = [[0, 0, 0, 0], [0, 1, 2, 3]]
gnn_list = ["gcn", "unused", "skip"]

class Arch:
    def __init__(self, link, ops):
        self.link, self.ops = link, ops

    def valid_hash(self):
        ops = sorted(self.ops) if self.link == [0, 0, 0, 0] else self.ops
        return link_list.index(self.link) * 81 + sum(gnn_list.index(op) * 3**i for i, op in enumerate(ops))
"""


def key(star: bool, *ops: int) -> int:
    return (0 if star else 81) + sum(op * 3**i for i, op in enumerate(ops))


def measured(value: float) -> dict[str, Any]:
    return {"valid_perf": value, "perf": np.float64(value / 2), "latency": value / 100, "para": np.float64(3.0)}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of three architectures: a star of one gcn (four spellings), a star of skips, a chain."""
    light = tmp_path / "nas_bench_graph" / "light"
    light.mkdir(parents=True)
    (light.parent / "__init__.py").touch()
    (light.parent / "architecture.py").write_text(STAND_IN)
    content = {
        key(True, 0, 2, 2, 2): measured(0.5),
        key(True, 2, 2, 2, 2): measured(0.25),
        key(False, 2, 0, 0, 2): measured(0.75),
    }
    (light / "tiny.bench").write_bytes(pickle.dumps(content, protocol=3))
    monkeypatch.syspath_prepend(str(tmp_path))
    held = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "nas_bench_graph"}
    for name in held:
        del sys.modules[name]
    yield light
    for name in [name for name in sys.modules if name.partition(".")[0] == "nas_bench_graph"]:
        del sys.modules[name]
    sys.modules.update(held)


def load(graph: str, path: Path) -> Table:
    write_table(graph_table(graph), path)
    return Table.load(path)


def test_every_spelling_of_a_measured_architecture_has_a_row(package: Path, tmp_path: Path) -> None:
    assert graphs() == ["tiny"]
    table = load("tiny", tmp_path / "tiny.npz")
    assert [choice.name for choice in table.space] == ["links", "op1", "op2", "op3", "op4"]
    assert table.candidates == (("0000", "0123"), *[("gcn", "skip")] * 4)
    assert len(table) == 6
    star = [{"links": "0000"} | {f"op{i}": "gcn" if i == at else "skip" for i in range(1, 5)} for at in range(1, 5)]
    rows = [table.row(each) for each in star]
    assert len(set(rows)) == 4
    assert {table.value(row or 0, "valid") for row in rows} == {0.5}
    assert {table.value(row or 0, "class") for row in rows} == {min(row or 0 for row in rows)}
    chain = {"links": "0123", "op1": "skip", "op2": "gcn", "op3": "gcn", "op4": "skip"}
    row = table.row(chain)
    assert row is not None
    assert [table.value(row, column) for column in ("valid", "test", "latency", "params")] == [0.75, 0.375, 0.0075, 3.0]
    assert table.row(chain | {"op1": "gcn"}) is None


def test_runs_no_code_that_a_data_file_names(package: Path, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "harm",)

    (package / "harmful.bench").write_bytes(pickle.dumps({0: Harmful()}))
    with pytest.raises(UserError, match=r"harmful.bench cannot be read: it names .*touch|harmful.bench cannot be read"):
        graph_table("harmful")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [{}, {0: {"perf": 1.0}}, [1, 2]])
def test_refuses_other_data(package: Path, content: Any) -> None:
    (package / "other.bench").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"other\.bench"):
        graph_table("other")


def test_command_writes_a_table(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.npz"
    assert CliRunner().invoke(app, ["table", "nas-bench-graph", "tiny", "--out", str(out)]).exit_code == 0
    assert len(Table.load(out)) == 6
    for wrong, message in (
        (["nas-bench-graph", "tyni", "--out", str(out)], "known here: tiny"),
        (["nasbench", "tiny", "--out", str(out)], "no table source is named 'nasbench'"),
        (["nas-bench-graph", "tiny", "--out", str(tmp_path / "no" / "t.npz")], "cannot be written"),
    ):
        result = CliRunner().invoke(app, ["table", *wrong])
        assert result.exit_code == 2
        assert message in result.stderr


def test_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nas_bench_graph", None)
    with pytest.raises(UserError, match=r"pip install 'archsearch\[nas-bench-graph\]'"):
        graphs()


real = pytest.mark.skipif(find_spec("nas_bench_graph") is None, reason="nas-bench-graph is not installed")


@real
def test_real_proteins(tmp_path: Path) -> None:
    table = load("proteins", tmp_path / "proteins.npz")
    assert len(np.unique(table.columns["class"])) == 2021
    assert set(table.candidates[1]) == {"gcn", "sage", "arma", "fc", "skip"}
    assert table.means("valid").max() == pytest.approx(0.853333, abs=1e-6)
    rng = Rng(0)
    missing = [each for each in (table.space.sample(rng) for _ in range(300)) if table.row(each) is None]
    assert all(set(list(each.values())[1:]) == {"skip"} for each in missing)  # the only one that was not measured


@real
def test_imports_no_graph_library() -> None:
    code = "import sys; import archsearch.evaluate.nas_bench_graph as n; n.graphs(); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        == "False"
    )
