from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

from archsearch import nn
from archsearch.errors import UserError
from archsearch.space import Rng, Term


class Scale(tnn.Module):
    """Remembers what it was made for, so that a test can see which operation stands where."""

    def __init__(self, factor: float, made_for: tuple[int, int, int]) -> None:
        super().__init__()
        self.factor = tnn.Parameter(torch.tensor(float(factor)))
        self.made_for = made_for

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def scales() -> dict[str, Any]:
    return {f"x{k}": lambda *place, k=k: Scale(k, place) for k in (1, 10)}


def test_slots() -> None:
    cell = nn.Cell(scales(), nodes=2, num_ops_per_node=2, predecessors=2, merge="loose_end", label="c")
    space = nn.describe(cell)
    assert [choice.name for choice in space] == [
        "c/input_2_0", "c/op_2_0", "c/input_2_1", "c/op_2_1", "c/input_3_0", "c/op_3_0", "c/input_3_1", "c/op_3_1",
    ]  # fmt: skip
    assert all(not choice.when for choice in space), "an operation is decided whatever its input"
    assert space.size() == (2 * 2) ** 2 * (3 * 2) ** 2
    chosen: dict[str, Any] = {
        "c/input_2_0": [0], "c/op_2_0": "x1", "c/input_2_1": [0], "c/op_2_1": "x10",
        "c/input_3_0": [2], "c/op_3_0": "x10", "c/input_3_1": [1], "c/op_3_1": "x1",
    }  # fmt: skip
    fixed: Any = nn.fix(cell, chosen)
    assert type(fixed) is nn.ChosenCell
    assert list(fixed.state_dict()) == ["ops.0.factor", "ops.1.factor", "ops.2.factor", "ops.3.factor"]
    assert [op.made_for for op in fixed.ops] == [(2, 0, 0), (2, 1, 0), (3, 0, 2), (3, 1, 1)]
    a, b = torch.ones(1, 1), torch.full((1, 1), 2.0)
    assert fixed(a, b).tolist() == [[11 * 10 + 2.0]]  # node 2 is used by node 3, which alone is left
    assert fixed([a, b]).tolist() == fixed(a, b).tolist()
    both: Any = nn.fix(cell, chosen | {"c/input_3_0": [0]})
    assert both(a, b).tolist() == [[11.0, 10 + 2.0]]


def test_edges() -> None:
    cell = nn.Cell(scales(), nodes=2, num_ops_per_node=2, predecessors=2, wiring="edges", label="c")
    space = nn.describe(cell)
    assert space["c/op_3_2"].when == ((Term("c/input_3", (2,)),),)
    assert space.size() == 2**2 * 3 * 2**2
    fixed: Any = nn.fix(
        cell,
        {"c/input_2": [0, 1], "c/op_2_0": "x1", "c/op_2_1": "x10"}
        | {"c/input_3": [0, 2], "c/op_3_0": "x10", "c/op_3_2": "x10"},
    )
    assert fixed(torch.ones(1, 1), torch.ones(1, 1)).tolist() == [[11.0, 120.0]]


def test_groups_share_decisions_but_not_modules() -> None:
    cell = nn.Cell(scales(), 2, 1, 1, alike=lambda i: min(i, 1))
    space = nn.describe(tnn.ModuleDict({"cell": cell}))
    assert [choice.name for choice in space] == ["cell/input_1_0", "cell/op_1_0", "cell/input_2_0", "cell/op_2_0"]
    rest = {"cell/input_1_0": [0], "cell/op_1_0": "x1", "cell/op_2_0": "x1"}
    for source in (0, 1):
        fixed: Any = nn.fix(tnn.ModuleDict({"cell": cell}), rest | {"cell/input_2_0": [source]})
        assert fixed["cell"].ops[1].made_for == (2, 0, source)


def test_equal_labels_are_one_decision() -> None:
    model = tnn.Sequential(*(nn.Cell(scales(), 1, label="c") for _ in range(2)))
    assert len(nn.describe(model).choices) == 2
    fixed = nn.fix(model, {"c/input_1_0": [0], "c/op_1_0": "x10"})
    assert fixed(torch.ones(1, 1)).item() == 100


def test_chosen_merge_and_a_layer_after_it() -> None:
    cell = nn.Cell([tnn.Conv2d(2, 2, 1)], 3, merge="chosen", label="c")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nn.StandaloneWarning)
        assert cell(torch.ones(1, 2, 1, 1)).shape == (1, 6, 1, 1)
    after = nn.AfterCell(tnn.Conv2d(6, 5, 1), cell)
    model = tnn.Sequential(cell, after)
    architecture = nn.describe(model).sample(Rng(0)).to_json() | {"c/concat": [1, 3]}
    fixed: Any = nn.fix(model, architecture)
    assert type(fixed[1]) is tnn.Conv2d
    assert torch.equal(fixed[1].weight, after.module.weight[:, [0, 1, 4, 5]])
    assert fixed(torch.ones(1, 2, 1, 1)).shape == (1, 5, 1, 1)
    assert after.module.weight.shape == (5, 6, 1, 1), "the model itself is left alone"


def test_candidates_with_choices_of_their_own() -> None:
    inner = nn.LayerChoice({"a": tnn.Identity(), "b": tnn.ReLU()})
    cell = nn.Cell({"plain": tnn.Identity(), "deep": inner}, 1, predecessors=2, label="c")
    space = nn.describe(cell)
    assert space["ops.2_0.0.deep"].when == ((Term("c/op_2_0", ("deep",)),),)
    assert space.size() == 2 * (1 + 2)
    assert not nn.describe(nn.fix(cell, space.sample(Rng(1)))).choices


def test_only_one_architecture_is_made() -> None:
    from archsearch.nn.sparing import Spared, sparing

    decisions = {"c/input_1_0": [0], "c/op_1_0": "x10"}
    with sparing(decisions):
        cell: Any = nn.Cell(scales(), 1, label="c")
        assert type(cell.ops["1_0"]["0"]["x1"]) is Spared
        assert nn.fix(cell, decisions)(torch.ones(1, 1)).item() == 10
    with pytest.raises(UserError, match="was not made"):
        nn.fix(cell, decisions | {"c/op_1_0": "x1"})(torch.ones(1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 0}, "Cell 'c': nodes is a whole number from 1 on, not 0"),
        ({"merge": "some"}, "merge is one of all, loose_end, chosen, not 'some'"),
        ({"wiring": "edges", "num_ops_per_node": 2}, "cannot choose 2 different ones"),
        ({"candidates": [3]}, "the candidate '0' is a int"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nn.Cell(**({"candidates": [tnn.Identity()], "nodes": 1, "label": "c"} | arguments))


def test_wrong_use() -> None:
    cell = nn.Cell([tnn.Identity()], 3, predecessors=2, label="c")
    with pytest.raises(UserError, match="a cell of 2 predecessors was given 1 inputs"):
        cell(torch.ones(1, 1))
    with pytest.raises(UserError, match="which 3 nodes do not share evenly"):
        nn.AfterCell(tnn.Linear(4, 2), cell)
    with pytest.raises(UserError, match="is no Conv2d without groups and no Linear layer"):
        nn.AfterCell(tnn.ReLU(), cell)
