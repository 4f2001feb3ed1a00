"""Candidates that do not fit are named with choice, place and shapes before any trial runs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn

from archsearch import nn
from archsearch.nn import mutables
from archsearch.nn.checking import CandidateError, check
from archsearch.space import Constraint, Term


class Net(tnn.Module):
    """A choice between two convolutions, with whatever candidates a test adds."""

    def __init__(self, **candidates: tnn.Module) -> None:
        super().__init__()
        self.op = nn.LayerChoice({"one": tnn.Conv2d(1, 4, 1), "three": tnn.Conv2d(1, 4, 3, padding=1), **candidates})
        self.norm = tnn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.op(x))
        return out


class Item(tnn.Module):
    """Asks for a value, which the meta device does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return x + float(x.sum().item())


def fault(model: tnn.Module, *shape: int, **options: Any) -> str:
    with pytest.raises(CandidateError) as caught:
        check(model, shape, **options)
    return str(caught.value)


def test_candidates_of_the_same_shape_pass_and_nothing_is_changed() -> None:
    torch.manual_seed(0)
    model = Net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    mutables._warned.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(model, (1, 8, 8))
    assert not mutables._warned
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    check(tnn.Linear(2, 2), (99,))


def test_a_wrong_shape_names_choice_candidate_and_both_shapes() -> None:
    said = fault(Net(wide=tnn.Conv2d(1, 6, 1)), 1, 8, 8)
    assert said.startswith("choice 'op', candidate 'wide': the network does not run with it, at norm: RuntimeError: ")
    assert said.endswith(
        "at op it gives (2, 6, 8, 8), where 'one' gives (2, 4, 8, 8); let it give the same shape, or take it out"
    )
    assert "candidate 'three'" not in said
    assert "gives (2, 4, 4, 4), with the first candidates (2, 4, 8, 8)" in fault(
        Net(half=tnn.Conv2d(1, 4, 2, 2)), 1, 8, 8
    )
    check(Net(half=tnn.Conv2d(1, 4, 2, 2)), (1, 8, 8), same_output=False)


def test_another_shape_that_the_rest_of_the_network_takes_is_good() -> None:
    body = nn.LayerChoice([tnn.Linear(4, 4), tnn.Linear(4, 4)])
    pooled = tnn.Sequential(
        nn.LayerChoice({"same": tnn.Identity(), "half": tnn.AvgPool1d(2)}), tnn.AdaptiveAvgPool1d(4), body
    )
    check(pooled, (3, 8))


def test_a_network_that_does_not_run_at_all() -> None:
    said = fault(Net(), 3, 8, 8)
    assert said.startswith(
        "Net does not run on inputs of shape (2, 3, 8, 8) with the first candidate of each choice, at op"
    )
    assert said.endswith("correct the network or the input shape")


class Hidden(tnn.Module):
    """Its second choice is in a plain list, where nothing finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.op = nn.LayerChoice([tnn.Identity(), tnn.ReLU()], label="op")
        self.more = [nn.LayerChoice([tnn.Identity(), tnn.ReLU()], label="more")]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.more[0](self.op(x))
        return out


class Lazy(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.op = nn.LayerChoice([tnn.Identity(), tnn.ReLU()], label="op")
        self.head = tnn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.op(x))
        return out


class Uncalled(tnn.Module):
    """Compares a chosen value where it should call it."""

    def __init__(self) -> None:
        super().__init__()
        self.op = nn.LayerChoice([tnn.Identity(), tnn.ReLU()], label="op")
        self.k = nn.ValueChoice([1, 2], label="k")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x) if self.k > 1 else x
        return out


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Hidden, "a LayerChoice that the network uses is none of its submodules.*torch.nn.ModuleList"),
        (Lazy, r"Lazy.head \(LazyLinear\) has no shape before its first batch: give sizes"),
        (Uncalled, r"is called where forward uses it, as in self.k\(\)"),
    ],
)
def test_the_commonest_mistakes_are_told_with_their_remedy(model: type[tnn.Module], words: str) -> None:
    assert re.search(words, fault(model(), 4))


def test_nested_choices_values_and_depths() -> None:
    inner = nn.LayerChoice({"good": tnn.Conv2d(1, 4, 1), "bad": tnn.Conv2d(1, 5, 1)}, label="inner")
    assert "choice 'inner' (at op.deep.1), candidate 'bad'" in fault(
        Net(deep=tnn.Sequential(tnn.ReLU(), inner)), 1, 4, 4
    )
    width = nn.ValueChoice([4, 8], label="width")
    assert "value 8: the network does not run with it, at norm" in fault(Net(sized=nn.Conv2d(1, width, 1)), 1, 4, 4)
    shrinking = tnn.Sequential(nn.Repeat(lambda _: tnn.Conv1d(1, 1, 3), (1, 4), label="depth"), tnn.Flatten())
    said = fault(shrinking, 1, 6, same_output=False)
    assert "choice 'depth' (at 0.depth), value 3" in said
    assert "choice 'depth' (at 0.depth), value 4" in said
    assert "choice 'depth' (at 0.depth), value 4" not in fault(shrinking, 1, 6, same_output=False, max_runs=2)


def test_the_cpu_is_asked_where_the_meta_device_cannot_tell() -> None:
    check(Net(item=tnn.Sequential(Item(), tnn.Conv2d(1, 4, 1))), (1, 4, 4))
    whole = tnn.Sequential(Item(), Net(wide=tnn.Conv2d(1, 6, 1)))
    assert "candidate 'wide': the network does not run with it, at 1.norm" in fault(whole, 1, 4, 4)


def test_words_are_integers() -> None:
    check(tnn.Sequential(tnn.Embedding(5, 3), nn.LayerChoice([tnn.Linear(3, 2), tnn.Linear(3, 2)])), (7,))


def test_what_constraints_forbid_is_not_tried() -> None:
    model = Net(wide=tnn.Conv2d(1, 6, 1))
    model.space_constraints = [Constraint.count("no wide", [Term("op", ("wide",))], most=0)]  # type: ignore[assignment]
    check(model, (1, 4, 4))


@pytest.mark.parametrize("make", [lambda: nn.InputChoice(3, n_chosen=2), lambda: nn.InputChoice(3, n_chosen=None)])
def test_inputs_are_no_candidates(make: Callable[[], tnn.Module]) -> None:
    class Sum(tnn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pick = make()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.pick([x, x, x])
            return out

    check(Sum(), (4,))


def test_many_faults_are_cut_short() -> None:
    said = fault(Net(**{f"bad{i}": tnn.Conv2d(1, 5 + i, 1) for i in range(12)}), 1, 4, 4)
    assert said.splitlines()[-1] == "and 2 more"
