"""modelSpace.mutate and the check of candidates, as the describe trial meets them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from archsearch.errors import UserError
from archsearch.evaluate.kinds import run_kind
from archsearch.space import SearchSpace
from archsearch.trial.context import TrialContext

MakeContext = Callable[..., TrialContext]
Code = Callable[[str, str], None]
PLAIN = """
from torch import nn
def make(classes, width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, classes))
def number(width):
    return width
class Untraced(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.net = make(classes)
    def forward(self, x):
        return self.net(x).relu() if x.max() > 0 else self.net(x)
class TooMany(nn.Module):
    def __init__(self):
        from archsearch.nn import InputChoice
        super().__init__()
        self.pick = InputChoice(2, n_chosen=3)
"""


@pytest.fixture(autouse=True)
def _plain(code: Code) -> None:
    code("their_plain", PLAIN)


def described(make_context: MakeContext, *mutations: dict[str, Any], target: str = "make", **args: Any) -> SearchSpace:
    space = {"python": {"class": f"their_plain:{target}", "args": args}, "mutate": list(mutations)}
    payload = run_kind(make_context(kind="describe", model_space=space)).payload
    return SearchSpace.from_json(payload["space"])


ACTIVATION = {"type": "torch.nn.ReLU", "replace": {"candidates": {"relu": "keep", "silu": "torch.nn.SiLU"}}}


def test_a_function_that_makes_a_network_and_mutations_of_it(make_context: MakeContext) -> None:
    kernel = {
        "match": "0",
        "values": {"k": [3, 5]},
        "replace": {"with": {"change": {"kernel_size": "$k", "padding": "$k // 2"}}},
    }
    space = described(make_context, ACTIVATION, kernel)
    assert [choice.name for choice in space] == ["0.kernel_size", "1"]
    assert space.digest == described(make_context, ACTIVATION, kernel).digest
    assert space.digest != described(make_context, ACTIVATION).digest


@pytest.mark.parametrize(
    ("mutations", "target", "args", "message"),
    [
        (
            [{"match": "0", "replace": {"candidates": {"keep": "keep", "wide": {"change": {"out_channels": 6}}}}}],
            "make",
            {},
            "choice '0', candidate 'wide': the network does not run with it, at 3: .* at 0 it gives (2, 6, 8, 8), "
            "where 'keep' gives (2, 4, 8, 8); let it give the same shape",
        ),
        ([{"match": "7", "remove": {}}], "make", {}, "modelSpace.mutate[0] (remove '7'): fits no modules; it has '0'"),
        (
            [ACTIVATION, {"match": "", "call": "relu", "remove": {}}],
            "Untraced",
            {},
            "modelSpace.mutate[1] (remove '', call relu): the network: torch.fx cannot trace the forward of Untraced",
        ),
        ([ACTIVATION], "number", {"width": 3}, "of type int; expected a subclass of torch.nn.Module, or a function"),
        ([ACTIVATION], "TooMany", {}, "chooses 3 of 2 inputs; give a number from 1 to 2.* (.*their_plain.py, line 17)"),
        ([], "make", {}, "Sequential has no choices: .*say in modelSpace.mutate what may be replaced"),
    ],
)
def test_mistakes_are_told_before_any_trial(
    make_context: MakeContext, mutations: list[dict[str, Any]], target: str, args: dict[str, Any], message: str
) -> None:
    pattern = re.escape(message).replace(r"\.\*", ".*").replace(r"\ ", " ")
    with pytest.raises(UserError, match=pattern):
        described(make_context, *mutations, target=target, **args)
