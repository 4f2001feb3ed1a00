"""What checkpoints hold of modules: what `state_dict` says, whatever modules do with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from archsearch.supernet.state import give_back, state_of, tensors_of


class Own(nn.Module):
    """Saves a tensor under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.scale = torch.tensor(3.0)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}scaled"] = self.scale


class Told(nn.Module):
    """Has more than tensors to say, which checkpoints of tensors leave out."""

    def get_extra_state(self) -> str:
        return "words"

    def set_extra_state(self, state: str) -> None:
        raise AssertionError


def _without_bias(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    del state[f"{prefix}bias"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False))
        self.shared = self.first[0]
        self.own, self.told = Own(), Told()
        self.hooked = nn.Linear(2, 2)
        self.hooked.register_state_dict_post_hook(_without_bias)
        self.weighted = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        self.missing = None
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("dropped", torch.ones(2), persistent=False)
        self.register_parameter("nothing", None)


def test_tensors_are_those_of_state_dict_themselves() -> None:
    net = Net()
    wanted = {name: value for name, value in net.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    found = tensors_of(net)
    assert found.keys() == wanted.keys()
    assert all(found[name] is value for name, value in wanted.items())
    behind = tensors_of(net, "kept.")
    assert behind == {f"kept.{name}": value for name, value in found.items()}
    assert {"own.scaled", "own.inner.weight", "hooked.weight", "shared.weight"} <= found.keys()
    assert not {"hooked.bias", "dropped", "nothing"} & found.keys()
    net.first[0] = nn.Conv2d(3, 4, 1)  # nothing is remembered of the module that was there
    assert tensors_of(net)["first.0.bias"] is net.first[0].bias


def test_an_optimizer_goes_on_where_another_was() -> None:
    def trained(steps: int) -> tuple[nn.Linear, torch.optim.Adam]:
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        optimizer = torch.optim.Adam([{"params": [net.weight]}, {"params": [net.bias], "lr": 0.5}], lr=0.1)
        for _ in range(steps):
            net(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        return net, optimizer

    net, optimizer = trained(3)
    tensors, scalars = state_of(optimizer)
    state = optimizer.state_dict()["state"]
    assert tensors.keys() == {f"{index}.{key}" for index, slots in state.items() for key in slots}
    other, fresh = trained(0)
    give_back(fresh, {name: value.clone() for name, value in tensors.items()}, scalars)
    give_back(other, {name: value.detach().clone() for name, value in tensors_of(net).items()}, {})
    for each, its in ((net, optimizer), (other, fresh)):
        each.zero_grad()
        each(torch.ones(1, 3)).square().sum().backward()
        its.step()
    assert torch.equal(net.weight, other.weight)
    assert torch.equal(net.bias, other.bias)
