"""Random models with nested choices, and random mutations of plain ones: whatever is sampled is built and runs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch import nn as tnn

from archsearch import nn
from archsearch.nn import mutables
from archsearch.nn.checking import check
from archsearch.nn.mutating import Insert, Operation, Remove, Repeated, Replace, mutate
from archsearch.space import Rng, SearchSpace

WIDTH = 4
INPUT = torch.linspace(-1, 1, 2 * WIDTH).reshape(2, WIDTH)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    mutables._warned.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nn.StandaloneWarning)
        yield


class Joined(tnn.Module):
    """Two branches and the input, of which some are added up."""

    def __init__(self, left: tnn.Module, right: tnn.Module, n_chosen: int | None) -> None:
        super().__init__()
        self.left, self.right = left, right
        self.pick = nn.InputChoice(3, n_chosen=n_chosen)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pick([x, self.left(x), self.right(x)])
        return out


class Residual(tnn.Module):
    def __init__(self, body: tnn.Module) -> None:
        super().__init__()
        self.body = body
        self.act = tnn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x + self.act(self.body(x)))


@st.composite
def modules(draw: st.DrawFn, depth: int, choices: bool = True) -> tnn.Module:
    """A module from (2, WIDTH) to (2, WIDTH). Labels are drawn from few, so that decisions are shared."""
    kinds = ["linear", "act"]
    if depth:
        kinds += ["sequence", "residual", *(["layer", "repeat", "join", "hidden"] if choices else [])]
    kind = draw(st.sampled_from(kinds))
    below = modules(depth - 1, choices)
    if kind == "linear":
        return tnn.Linear(WIDTH, WIDTH, bias=draw(st.booleans()))
    if kind == "act":
        act: tnn.Module = draw(st.sampled_from([tnn.ReLU, tnn.Tanh, tnn.Identity]))()
        return act
    if kind == "sequence":
        return tnn.Sequential(*draw(st.lists(below, min_size=1, max_size=3)))
    if kind == "residual":
        return Residual(draw(below))
    if kind == "layer":
        count = draw(st.integers(1, 3))
        label = draw(st.sampled_from([None, None, f"layer{count}"]))
        return nn.LayerChoice({name: draw(below) for name in "abc"[:count]}, label=label)
    if kind == "repeat":
        low = draw(st.integers(0, 2))
        return nn.Repeat(draw(below), (low, low + draw(st.integers(0, 2))))
    if kind == "join":
        return Joined(draw(below), draw(below), draw(st.sampled_from([None, 1, 2])))
    hidden = nn.ValueChoice([2, 3, 5], label=draw(st.sampled_from([None, "hidden"])))
    return tnn.Sequential(nn.Linear(WIDTH, hidden * 2), nn.Linear(hidden * 2, WIDTH))


def plain_networks(depth: int = 3) -> st.SearchStrategy[tnn.Module]:
    return modules(depth, choices=False)


def check_all(model: tnn.Module, seed: int) -> None:
    """Sample, fix, run; nothing of the choices is left, and the space reads back from its document."""
    space = nn.describe(model)
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))).digest == space.digest
    rng = Rng(seed)
    for _ in range(3):
        architecture = space.sample(rng)
        fixed = nn.fix(model, architecture)
        assert nn.describe(fixed).choices == ()
        assert not any(isinstance(module, nn.Mutable) for module in fixed.modules())
        assert fixed(INPUT).shape == INPUT.shape
        again = nn.fix(model, space.validate(json.loads(json.dumps(architecture.to_json()))))
        assert list(again.state_dict()) == list(fixed.state_dict())


@settings(max_examples=40, deadline=None)
@given(modules(3), st.integers(0, 2**31 - 1))
def test_whatever_is_sampled_is_built_and_runs(model: tnn.Module, seed: int) -> None:
    check_all(model, seed)
    assert model(INPUT).shape == INPUT.shape
    check(model, (WIDTH,))


NORM = {"type": "LayerNorm", "args": {"normalized_shape": "$out"}}
SQUARE: dict[str, Any] = {"in_features": "$in", "out_features": "$out"}
OPERATIONS: list[Operation] = [
    Replace("*", {"keep": "keep", "plain": {"change": {"bias": False}}}, type=tnn.Linear),
    Replace(
        type=tnn.Linear,
        with_=[
            {"type": "Linear", "args": {**SQUARE, "out_features": "$h * 2"}},
            {"type": "Linear", "args": {**SQUARE, "in_features": "$h * 2"}},
        ],
        values={"h": {"choice": [2, 3], "label": "h"}},
    ),
    Replace(type=(tnn.ReLU, "torch.nn.Tanh"), candidates={"keep": "keep", "elu": tnn.ELU}, label="act"),
    Insert(type=tnn.Linear, candidates={"none": "identity", "norm": NORM}),
    Insert(type=tnn.Tanh, candidates=["identity", tnn.Dropout], before=True),
    Remove(type=Residual),
    Remove("*", type=tnn.Tanh, always=True),
    Repeated(type=tnn.Identity, depth=(0, 2)),
    Remove(type=Residual, call="add"),
    Replace(type=Residual, call=torch.tanh, candidates={"keep": "keep", "relu": "torch.nn.ReLU"}),
    Insert(type=Residual, call="tanh", candidates={"none": "identity", "silu": "SiLU"}, before=True),
]


@settings(max_examples=40, deadline=None)
@given(
    plain_networks(),
    st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=4, unique=True),
    st.integers(0, 2**31 - 1),
)
def test_whatever_mutations_fit_make_a_space(model: tnn.Module, operations: list[Operation], seed: int) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        mutated = mutate(model, operations)
    except nn.MutationError as error:
        # Of random operations on a random network some find no place, or one that is taken.
        assert any(words in str(error) for words in ("fits no modules", "is replaced by", "calls it"))  # noqa: PT017
        return
    check_all(mutated, seed)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
