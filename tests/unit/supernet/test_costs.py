"""Expected costs: at a certain architecture they are its own, under conditions and nested choices too."""

from __future__ import annotations

import json

import pytest
import torch
from support.supernets import tiny
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.evaluate.measuring import Inputs
from archsearch.evaluate.profile import count
from archsearch.nn import LayerChoice, fix
from archsearch.space import Rng
from archsearch.supernet import distributed
from archsearch.supernet.costs import costs_of
from archsearch.supernet.network import Supernet
from archsearch.zoo.darts import DARTS


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        inner = LayerChoice({"thin": nn.Conv2d(1, 1, 1), "thick": nn.Conv2d(1, 1, 3, padding=1)}, label="inner")
        self.outer = LayerChoice({"deep": nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), inner), "flat": nn.Identity()})
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.outer(x).flatten(1))
        return out


def certain(supernet: Supernet, architecture: dict[str, object]) -> dict[str, Tensor]:
    found = {}
    for name, choice in supernet.choices.items():
        decision = architecture.get(name)
        chosen = decision if isinstance(decision, tuple) else (decision,)
        found[name] = torch.tensor([float(option in chosen) for option in choice.options])
    return found


@pytest.mark.parametrize("metric", ["params", "macs", "flops"])
@pytest.mark.parametrize("make", [tiny, Nested], ids=["nasbench201", "nested"])
def test_differences_are_those_of_the_plain_networks(make: type[nn.Module], metric: str) -> None:
    model = make()
    supernet = Supernet(model)
    costs = costs_of(metric, supernet, Inputs((1, 8, 8)), device="cpu")
    rng = Rng(0)
    offsets = []
    for _ in range(6):
        architecture = supernet.space.sample(rng)
        counts = count(fix(model, architecture), (1, 8, 8))
        own = {"params": counts.params, "macs": counts.macs, "flops": counts.flops}[metric]
        assert float(costs.expected(certain(supernet, dict(architecture)))) == pytest.approx(costs.of(architecture))
        offsets.append(own - costs.of(architecture))
    assert offsets == pytest.approx([offsets[0]] * len(offsets))  # what no choice decides


def test_an_edge_counts_as_far_as_it_is_likely_to_exist() -> None:
    supernet = Supernet(DARTS(channels=4, cells=3, input_channels=1))
    costs = costs_of("params", supernet, None, device="cpu")
    even = {name: torch.full((len(c.options),), 1 / len(c.options)) for name, c in supernet.choices.items()}
    only = {name: value for name, value in even.items() if "/op_" in name}
    # Two inputs of each node are chosen: the edges of node 2 (of two inputs) exist for certain, of node 5 by 2/5.
    expected = sum(float(costs.table[name].mean()) * 2 / int(name.split("_")[1]) for name in only)
    assert float(costs.expected(only)) == pytest.approx(expected, rel=1e-5)


def test_statistics_and_mode_stay_as_they_were() -> None:
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    supernet = Supernet(model)
    costs_of("macs", supernet, Inputs((1, 8, 8)), device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_macs_need_the_shape_of_an_input() -> None:
    with pytest.raises(UserError, match="inputShape"):
        costs_of("macs", Supernet(tiny()), None, device="cpu")


def test_ranks_go_by_the_latencies_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first = {choice.name: [float(i) for i in range(len(choice.options))] for choice in Supernet(tiny()).space.choices}

    def broadcast(value: object) -> object:
        assert json.loads(json.dumps(value)).keys() == first.keys()
        return first

    monkeypatch.setattr(distributed, "broadcast_object", broadcast)
    costs = costs_of("latencyMs", Supernet(tiny()), Inputs((1, 8, 8)), device="cpu")
    assert {name: row.tolist() for name, row in costs.table.items()} == first
