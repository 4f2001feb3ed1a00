"""Chosen arguments on shared weights: a path computes what the fixed network with the same weights computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archsearch import nn as nas
from archsearch.errors import UserError
from archsearch.nn import ValueModule, fix
from archsearch.registry import find
from archsearch.space import Rng
from archsearch.supernet.elastic import widen
from archsearch.supernet.network import Supernet
from archsearch.supernet.norms import batch_statistics, frozen_statistics, recalibrate
from archsearch.supernet.weights import load_shared


class Scaled(nn.Module):
    """Has a constant by its width, which is no slice of another width's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0, 1, width), persistent=False)
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale * self.weight


class Toy(nn.Module):
    """Channels, kernels, groups, features, depth, dropout, a value in forward, and a layer choice around."""

    def __init__(self) -> None:
        super().__init__()
        channels = nas.ValueChoice((4, 12, 8), label="channels")
        kernel = nas.ValueChoice((1, 3, 5), label="kernel")
        self.first = nas.Conv2d(3, channels, kernel, padding=kernel // 2)
        self.norm = nas.BatchNorm2d(channels)
        self.second = nas.LayerChoice(
            {
                "depthwise": nas.Conv2d(channels, channels, 3, padding=1, groups=channels),
                "grouped": nas.Conv2d(
                    channels, channels, 3, padding=1, groups=nas.ValueChoice((1, 2, 4), label="groups")
                ),
                "back": nas.ConvTranspose2d(channels, channels, 3, padding=1),
            },
            label="second",
        )
        self.blocks = nas.Repeat(lambda i: nas.Conv2d(channels, channels, 1), (0, 2), label="depth")
        self.features = nas.ValueChoice((5, 7), label="features")
        self.out = nas.Linear(channels, self.features * 2)
        self.scaled = nas.wrap(Scaled)(self.features * 2)
        self.dropout = nas.Dropout(nas.ValueChoice((0.0, 0.5), label="dropout"))
        self.last = nas.Linear(self.features * 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.second(torch.relu(self.norm(self.first(x))))).mean((2, 3))
        return self.last(self.dropout(self.scaled(self.out(x)))) * self.features()


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nas.ValueChoice((3, 6, 4), label="hidden")
        self.recurrent = nas.LSTM(5, self.hidden, bidirectional=True, batch_first=True)
        self.attention = nas.wrap(SelfAttention)(self.hidden * 2, nas.ValueChoice((1, 2), label="heads"))

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.recurrent(x)[0])


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x, x, x, need_weights=False)[0]
        return out


def zoo(name: str, **args: Any) -> Callable[[], nn.Module]:
    return lambda: find("archsearch.spaces", name)(**args)


TRANSFORMER = {"input_size": 8, "widths": (8, 16, 12), "depth": (1, 3), "heads": (1, 3), "head_width": 4}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "toy": (Toy, (2, 3, 6, 6)),
    "words": (Words, (2, 4, 5)),
    "shufflenet-spos": (
        zoo("shufflenet-spos", width=0.1, classes=3, stem="cifar", channel_search=True, dropout=0.0),
        (2, 3, 8, 8),
    ),
    "elastic-transformer": (zoo("elastic-transformer", classes=3, **TRANSFORMER), (2, 3, 8, 8)),
    "mobilenetv3": (zoo("mobilenetv3", width=0.1, depth=2, classes=3, stem="cifar"), (2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_path_is_the_fixed_network(name: str) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    supernet = Supernet(make())
    rng, inputs = Rng(name), torch.randn(shape)
    with torch.no_grad():  # statistics that are not those of a new network
        supernet.model.train()
        for _ in range(2):
            supernet.take(supernet.space.sample(rng))
            supernet.model(inputs)
    supernet.model.eval()
    for _ in range(2):
        architecture = supernet.space.sample(rng)
        supernet.take(architecture)
        plain = fix(supernet.model, architecture).eval()
        assert not any(isinstance(module, ValueModule) for module in plain.modules())
        assert torch.equal(supernet.model(inputs), plain(inputs))


@pytest.mark.parametrize("name", ["toy", "shufflenet-spos", "elastic-transformer"])
def test_gradients_and_statistics_are_the_fixed_networks_and_nothing_else_is_touched(name: str) -> None:
    torch.manual_seed(1)
    make, shape = MODELS[name]
    supernet = Supernet(make())
    architecture = {**supernet.space.sample(Rng(5)), **({"dropout": 0.0} if name == "toy" else {})}
    plain = fix(supernet.model, architecture).train()
    supernet.model.train()
    supernet.take(architecture)
    inputs = torch.randn(shape)
    before = {key: value.clone() for key, value in supernet.model.named_buffers()}
    supernet.model(inputs).square().sum().backward()
    plain(inputs).square().sum().backward()
    ours = {n.replace("inner.", ""): p for n, p in supernet.model.named_parameters() if p.grad is not None}
    total = sum(float(p.grad.abs().double().sum()) for p in ours.values() if p.grad is not None)
    theirs = sum(float(p.grad.abs().double().sum()) for p in plain.parameters() if p.grad is not None)
    assert total == pytest.approx(theirs, rel=1e-5)  # no gradient lies outside the path's parts
    found = fix(supernet.model, architecture)  # holds the parts of the statistics after the pass
    for key, buffer in found.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(key)), key
    moved = sum(int((value != before[key]).sum()) for key, value in supernet.model.named_buffers())
    fresh = fix(make(), architecture)
    assert moved <= sum(buffer.numel() for buffer in fresh.buffers())


def test_kernels_are_centred_channels_lead_and_groups_lie_on_the_diagonal() -> None:
    model = Toy()
    supernet = Supernet(model)
    weight = model.first.inner.weight
    assert weight.shape == (12, 3, 5, 5)
    chosen = {**supernet.space.default(), "channels": 8, "kernel": 3, "second": "grouped", "groups": 4}
    plain: Any = fix(model, chosen)
    assert torch.equal(plain.first.weight, weight[:8, :, 1:4, 1:4])
    assert torch.equal(plain.norm.weight, model.norm.inner.weight[:8])
    grouped = model.second["grouped"].inner.weight
    assert grouped.shape == (12, 12, 3, 3)
    for output in range(8):
        group = output // 2
        assert torch.equal(plain.second.weight[output], grouped[output, 2 * group : 2 * group + 2])
    plain = fix(model, {**chosen, "second": "depthwise"})
    assert torch.equal(plain.second.weight, model.second["depthwise"].inner.weight[:8])


def test_heads_take_their_own_queries_keys_and_values() -> None:
    model = MODELS["elastic-transformer"][0]()
    supernet = Supernet(model)
    whole = model.blocks._block(0).attention.inner.queries_keys_values.weight.unflatten(0, (3, 3, 4))
    chosen = {**supernet.space.default(), "width": 12, "heads_0": 1}
    plain: Any = fix(model, chosen)
    found = plain.blocks[0].attention.queries_keys_values.weight.unflatten(0, (3, 1, 4))
    assert torch.equal(found, whole[:, :1, :, :12])


def test_checkpoints_hold_the_largest_and_load_into_a_new_network() -> None:
    torch.manual_seed(2)
    supernet = Supernet(Toy())
    held = {name: value.clone() for name, value in supernet.model.state_dict().items()}
    widen(supernet.model)  # again: nothing happens
    assert all(torch.equal(value, held[name]) for name, value in supernet.model.state_dict().items())
    fresh = Toy()
    load_shared(fresh, held)
    architecture, inputs = supernet.space.sample(Rng(3)), torch.randn(2, 3, 6, 6)
    supernet.model.eval()
    supernet.take(architecture)
    assert torch.equal(fix(fresh, architecture).eval()(inputs), supernet.model(inputs))
    other = Toy()
    other.last = nn.Linear(3, 3)
    with pytest.raises(UserError, match=r"last\.inner\.weight, which the network does not|no last\.weight"):
        load_shared(other, held)


@pytest.mark.filterwarnings("ignore::archsearch.nn.StandaloneWarning")
def test_without_an_architecture_a_widened_network_takes_the_first_candidates() -> None:
    model = Toy().eval()
    inputs = torch.randn(2, 3, 6, 6)
    widen(model)
    assert torch.equal(model(inputs), fix(model, None).eval()(inputs))


def test_frozen_and_measured_statistics_hold_for_parts_too() -> None:
    torch.manual_seed(3)
    supernet = Supernet(Toy())
    architecture = {**supernet.space.default(), "channels": 4}
    supernet.take(architecture)
    supernet.model.train()
    norm = supernet.model.norm.inner  # type: ignore[union-attr]
    batches = [torch.randn(4, 3, 6, 6) for _ in range(3)]
    with frozen_statistics(supernet.model):
        supernet.model(batches[0])
    assert torch.equal(norm.running_mean, torch.zeros(12))
    with batch_statistics(supernet.model), torch.no_grad():
        by_batch = supernet.model(batches[0])
    assert torch.equal(norm.running_mean, torch.zeros(12)) and supernet.model.training
    expected: Any = fix(supernet.model, architecture).train()
    assert torch.allclose(by_batch, expected(batches[0]), atol=1e-6)
    assert recalibrate(supernet.model, supernet.model, batches) == 3
    plain: Any = fix(supernet.model, architecture).eval()
    means = torch.stack([plain.first(batch).mean((0, 2, 3)) for batch in batches])
    assert torch.allclose(norm.running_mean[:4], means.mean(0), atol=1e-6)
    assert torch.equal(norm.running_mean[4:], torch.zeros(8))
    assert norm.momentum == 0.1


class Nested(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.choice = nas.LayerChoice([nn.Linear(width, 1), nn.Identity()], label="nested")


class Loose(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = torch.zeros(width)


def opposite(a: Any) -> nn.Module:
    """The more inputs, the fewer outputs."""
    return nas.Linear(a, a.map(lambda value: 9 - value))


def options(*values: Any, label: str = "a") -> Any:
    return nas.ValueChoice(values, label=label)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nas.wrap(Nested)(options(1, 2)), "choice is a choice within it"),
        (lambda: nas.wrap(Loose)(options(1, 2)), "table is a tensor, but no parameter or buffer"),
        (lambda: opposite(options(1, 6)), r"weight is 8×1 .*a 1, a 6"),
        (lambda: nas.Linear(4, 4, bias=options(True, False).map(bool)), None),
        (
            lambda: nas.wrap(nn.Sequential)(options(0, 1).map(lambda v: (nn.LayerNorm(2), nn.RMSNorm(9))[v])),
            "only some choices have 0.bias",
        ),
        (lambda: nas.Linear(*(options(*range(1, 102), label=name) for name in "ab")), "10201 combinations"),
    ],
)
def test_what_cannot_be_cut_out_is_refused_when_the_supernet_is_made(
    make: Callable[[], nn.Module], words: str | None
) -> None:
    model = nn.Sequential(make())
    if words is None:
        Supernet(model)
        return
    with pytest.raises(UserError, match=words) as caught:
        Supernet(model)
    assert "0 (" in str(caught.value)
    assert "layer choice" in str(caught.value) or "register_buffer" in str(caught.value)
