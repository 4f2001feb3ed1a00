"""Supernets of all spaces that can be one: a path of the supernet is the plain network with the same weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from archsearch.errors import UserError
from archsearch.nn import LayerChoice, fix
from archsearch.nn.mutables import Mutable
from archsearch.registry import find, registered
from archsearch.space import Categorical, Rng
from archsearch.supernet.network import Mixture, Supernet
from archsearch.supernet.norms import frozen_statistics

SPACES = sorted(name for name in registered("archsearch.spaces"))


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    kind: Any = find("archsearch.spaces", name)
    return kind(**getattr(kind, "small", {}))  # type: ignore[no-any-return]


def example(name: str, model: nn.Module) -> torch.Tensor:
    if getattr(model, "input_dtype", None) is torch.int64:
        return torch.randint(0, 2, (2, 8))
    return torch.rand(2, 3, 32, 32)


def logits(output: Any) -> torch.Tensor:
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("name", SPACES)
def test_a_path_of_the_supernet_is_the_plain_network_with_its_weights(name: str) -> None:
    model = network(name)
    if name == "nasbench101":  # the shapes of its weights depend on the whole architecture
        with pytest.raises(UserError, match="cannot be part of a supernet"):
            Supernet(model)
        return
    supernet = Supernet(model)
    x = example(name, model)
    for seed in range(2):
        architecture = supernet.space.sample(Rng(seed))
        plain = fix(model, architecture)
        assert not any(isinstance(module, Mutable) for module in plain.modules())
        supernet.take(architecture)
        for training in (False, True):
            model.train(training)
            plain.train(training)
            found = []
            for each in (model, plain):
                torch.manual_seed(1)  # what dropout draws
                with torch.no_grad(), frozen_statistics(each):
                    found.append(logits(each(x)))
            assert torch.allclose(found[0], found[1], atol=1e-4, rtol=1e-4), (name, training, architecture)


def test_copies_and_plain_networks_are_led_by_nobody() -> None:
    model = network("pnas")
    supernet = Supernet(model)
    supernet.take(supernet.space.sample(Rng(0)))
    twin = copy.deepcopy(model)
    assert all(module.conductor is None for module in twin.modules() if isinstance(module, Mutable))
    assert all(module.conductor is supernet for module in model.modules() if isinstance(module, LayerChoice))
    assert model.state_dict().keys() == twin.state_dict().keys()


def test_a_choice_without_a_mixture_is_an_error_that_names_it() -> None:
    supernet = Supernet(network("nasbench201"))
    with pytest.raises(UserError, match="nothing says what choice 'edge_0_1' does"):
        supernet.model(torch.rand(2, 3, 8, 8))


def test_pinned_and_passing_mixtures() -> None:
    supernet = Supernet(network("nasbench201"))
    layers = [c.name for c in supernet.space.choices if isinstance(c, Categorical)]
    first = {name: Mixture((0,)) for name in layers}
    supernet.mix(first)
    with supernet.mixing({name: Mixture((1,)) for name in layers}):
        assert supernet.mixture("edge_0_1").chosen == (1,)
    assert supernet.mixture("edge_0_1").chosen == (0,)
    supernet.pin("edge_0_1", Mixture((3,)))
    assert supernet.mixture("edge_0_1").chosen == (3,)
    assert supernet.mixture("edge_0_2").chosen == (0,)
    with supernet.following(supernet.space.sample(Rng(0)).to_json() | {"edge_0_1": "none"}):
        assert supernet.mixture("edge_0_1").chosen == (0,)  # "none" comes first: an architecture goes before


def test_mixtures_weigh_the_candidates_outputs() -> None:
    model = nn.Sequential(LayerChoice({"double": nn.Linear(2, 2, bias=False), "same": nn.Identity()}, label="op"))
    with torch.no_grad():
        model[0]["double"].weight.copy_(2 * torch.eye(2))  # type: ignore[index, operator]
    supernet = Supernet(model)
    weights = torch.tensor([0.25, 0.5], requires_grad=True)
    supernet.mix({"op": Mixture((0, 1), weights)})
    x = torch.tensor([[1.0, 3.0]])
    out = model(x)
    assert torch.allclose(out, x)
    out.sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [8.0, 4.0]
