"""NAS-Bench-Graph as a table: reads the PyPI package nas-bench-graph. Imports no graph library, and no torch."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archsearch.errors import UserError
from archsearch.space.errors import listed
from archsearch.spec.explain import suggest

CHOICES = ("links", "op1", "op2", "op3", "op4")
# Our columns and the package's fields: accuracy (of proteins the ROC AUC), 0 to 1, mean of three seeds; seconds of one
# forward pass; millions.
COLUMNS = {"valid": "valid_perf", "test": "perf", "latency": "latency", "params": "para"}
_SAFE = {("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"), ("numpy", "dtype")}


class _Unpickler(pickle.Unpickler):
    """Numbers, texts and dicts only: a data file names no other code to run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _SAFE:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no data")
        return super().find_class("numpy._core.multiarray" if name == "scalar" else module, name)


def graphs() -> list[str]:
    """The data sets that the installed package has measurements on.

    Raises:
        UserError: the package is not installed.
    """
    return sorted(path.stem for path in _folder().glob("*.bench"))


def graph_table(graph: str) -> dict[str, NDArray[Any]]:
    """The arrays of a table (see `Table.load`) of the architectures measured on one graph.

    An architecture is a tree of four computing nodes: `links` is one of nine shapes, of each node the node it reads (0:
    the input), and `op1` to `op4` are the nodes' operations (Qin et al., "NAS-Bench-Graph: benchmarking graph neural
    architecture search", NeurIPS 2022, section 3). Isomorphic ones were measured once: each of them is a row here, and
    `class` (n,) says which row is the first of the same. What was not measured has no row.

    Raises:
        UserError: no such graph, the package is not installed, or its data is not what it was.
    """
    if graph not in graphs():
        raise UserError(f"nas-bench-graph has no graph {graph!r}; {suggest(graph, graphs())}")
    measured = _measured(_folder() / f"{graph}.bench")
    architecture = import_module("nas_bench_graph.architecture")
    found = _rows(architecture, measured)
    operations = [name for i, name in enumerate(architecture.gnn_list) if (found[:, 1:5] == i).any()]
    number = {i: operations.index(name) for i, name in enumerate(architecture.gnn_list) if name in operations}
    keys = found[:, 5].tolist()
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    ops = found[:, :5].astype(np.uint8)
    ops[:, 1:] = np.vectorize(number.__getitem__)(found[:, 1:5])
    links = ["".join(map(str, each)) for each in architecture.link_list]
    return {
        "ops": ops,
        "candidates": np.array(json.dumps([links] + [operations] * 4)),
        "choices": np.array(json.dumps(CHOICES)),
        "class": np.array([first[key] for key in keys]),
        **{ours: np.array([float(measured[key][field]) for key in keys]) for ours, field in COLUMNS.items()},
    }


def _rows(architecture: ModuleType, measured: Mapping[int, Any]) -> NDArray[np.int64]:
    """Every spelling of a measured architecture: shape, four operations, and the key of its class."""
    rows = []
    for shape, links in enumerate(architecture.link_list):
        for ops in itertools.product(range(len(architecture.gnn_list)), repeat=4):
            names = [architecture.gnn_list[op] for op in ops]
            key = architecture.Arch(list(links), names).valid_hash()
            if key in measured:
                rows.append((shape, *ops, key))
    return np.array(rows, dtype=np.int64).reshape(-1, 6)


def _folder() -> Path:
    try:
        package = import_module("nas_bench_graph")
    except ImportError:
        raise UserError("NAS-Bench-Graph is not installed here: pip install 'archsearch[nas-bench-graph]'") from None
    return Path(str(package.__file__)).parent / "light"


def _measured(path: Path) -> dict[int, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            found = _Unpickler(file).load()
        sound = bool(found) and all(set(COLUMNS.values()) <= set(each) for each in found.values())
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not sound:
        raise UserError(
            f"{path} must hold {listed(COLUMNS.values())} of each architecture; is nas-bench-graph 1.4 there?"
        )
    return found  # type: ignore[no-any-return]
